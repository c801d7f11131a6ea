"""The trainings of a table in miniature: one after the other, or several at a time, each in a process of its own."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.checkpoint import NotFiniteError
from ...common.files import read_json, written_whole

logger = logging.getLogger("diffharmony")
VERDICT = "diverged.json"


@dataclass(frozen=True)
class Training:
    """One training: the checkpoint's name among its seed's models, a trainer's `main` and its config."""

    name: str
    seed: int
    main: Callable[[Any], dict[str, Any]]
    config: Any


def train_all(
    trainings: Sequence[Training], jobs: int, trained: Sequence[dict[str, Path]], broken: Sequence[dict[str, str]]
) -> None:
    """Train what is missing. Each checkpoint goes into its seed's dict of `trained`; where loss or weights were not finite,
    that is written down and goes into `broken` instead.

    jobs: trainings at a time. Above 1, each has a process with one thread.
    """
    if jobs == 1 or len(trainings) < 2:
        outcomes = [_train(training) for training in trainings]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(trainings)), mp_context=context, initializer=_one_thread) as pool:
            outcomes = list(pool.map(_train, trainings))
    for training, (path, why) in zip(trainings, outcomes):
        if path is not None:
            trained[training.seed][training.name] = path
        else:
            broken[training.seed][training.name] = why
            logger.warning("%s, seed %d: %s", training.name, training.seed, why)


def _train(training: Training) -> tuple[Path | None, str]:
    verdict = training.config.run.out / VERDICT
    if verdict.is_file():
        return None, read_json(verdict)["why"]
    try:
        return Path(training.main(training.config)["checkpoint"]), ""
    except (FloatingPointError, NotFiniteError) as error:  # the latter: gradients overflowed at the last step, after a finite loss
        with written_whole(verdict) as temporary:
            temporary.write_text(json.dumps({"why": str(error)}) + "\n", encoding="utf-8")
        return None, str(error)


def _one_thread() -> None:
    import torch

    # what a launcher told the parent of its processes is not for a training of its own
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
