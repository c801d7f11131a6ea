"""Scores of candidates by the harmony classifier, and their distances: over any number of processes, none computed twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..classifier.inference import unharmonious_probability
from ..classifier.model import HarmonyClassifier
from ..common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture
from ..common.processes import on_main, processes
from .distance import distances_from_real
from .manifest import Candidate, as_line, parse_line

SCORES = "scores.jsonl"
NEEDED = {"file_name": str, "classifier": str, "score": int | float, "distance": int | float}
AHEAD = 4  # pairs that are read while others are scored


class Score(NamedTuple):
    """score: unharmonious probability. distance: from the real image, see `distances_from_real`."""

    score: float
    distance: float


def score_candidates(
    data: Path, pairs: Sequence[Sequence[Candidate]], out: Path, classifier: HarmonyClassifier, classifier_digest: str, *,
    device: torch.device, batch_size: int = 32, workers: int = 2,
) -> tuple[dict[str, Score], int]:  # fmt: skip
    """Score what this classifier has not scored yet; called by every process, each scores its part of the pairs.

    Scores are added to `<out>/scores.jsonl` as soon as every process has done a pair, by the first one, in the manifest's order; a killed
    run goes on from there. Returns: file name -> score, complete on the first process; and how many were scored now, by all.
    Raises: FileNotFoundError, ValueError for images that are missing, damaged, or of another size than their mask.
    """
    state, path = processes(), out / SCORES
    on_main(lambda: _drop_cut_line(path))
    scores = _read_scores(path, classifier_digest)
    todo = [rows for pair in pairs if (rows := [row for row in pair if row.file_name not in scores])]
    total = sum(map(len, todo))
    added = path.open("a", encoding="utf-8") if state.is_main_process else nullcontext()
    bar = tqdm(total=total, desc="scores", unit="image", delay=1, dynamic_ncols=True, disable=not state.is_main_process)
    with ThreadPoolExecutor(max(1, workers)) as pool, added as file, bar:
        read = _read_ahead(pool, data, todo[state.process_index :: state.num_processes])
        for _ in range(0, len(todo), state.num_processes):
            own = []
            for rows, images, mask, distances in islice(read, 1):
                seen = mask if classifier.needs_mask else None
                found = unharmonious_probability(classifier, images, seen, device=device, batch_size=batch_size).tolist()
                own = [(row.file_name, Score(*values)) for row, *values in zip(rows, found, distances)]
            together = gather_object(own)
            scores.update(together)
            if file is not None:
                lines = ({"file_name": name, "classifier": classifier_digest, **score._asdict()} for name, score in together)
                file.writelines(map(as_line, lines))
                file.flush()
            bar.update(len(together))
    return scores, total


def _drop_cut_line(path: Path) -> None:
    """Make the file where missing; a line that a kill cut off goes, so that nothing is added behind it."""
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _read_scores(path: Path, classifier_digest: str) -> dict[str, Score]:
    with path.open("rb") as file:
        records = (record for line in file if (record := parse_line(line, NEEDED)) is not None)
        return {one["file_name"]: Score(one["score"], one["distance"]) for one in records if one["classifier"] == classifier_digest}


def _read_ahead(pool: ThreadPoolExecutor, data: Path, pairs: Sequence[Sequence[Candidate]]) -> Iterator[tuple]:
    """Each pair's candidates with what _images gives."""
    waiting: deque[tuple[Sequence[Candidate], Future]] = deque()
    for rows in pairs:
        waiting.append((rows, pool.submit(_images, data, rows)))
        if len(waiting) > AHEAD:
            rows, images = waiting.popleft()
            yield rows, *images.result()
    for rows, images in waiting:
        yield rows, *images.result()


def _images(data: Path, rows: Sequence[Candidate]) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """The candidates [K, 3, H, W] of one pair in -1..1, their mask [1, 1, H, W], and K distances. Raises: ValueError where sizes differ."""
    names = [rows[0].real, *(row.file_name for row in rows)]
    real, *images = [pil_to_tensor(read_picture(data / name)) for name in names]
    mask = pil_to_mask(read_mask(data / rows[0].mask))
    for name, image in zip(names, (real, *images)):
        if image.shape[-2:] != mask.shape[-2:]:
            found, wanted = (f"{shape[1]} x {shape[0]} px" for shape in (image.shape[-2:], mask.shape[-2:]))
            raise ValueError(f"candidates and mask of a pair must have one size, got {found} and {wanted} for {name}. Make it again.")
    candidates = torch.cat(images)
    return candidates, mask, distances_from_real(candidates, real, mask).tolist()
