"""A data set without the images that cannot be used: each is read once, before the first step."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...common.files import read_json, written_whole
from ...common.processes import on_main
from ...dataset.pairs import BadImage
from ..config import TrainingConfig
from ..run.resume import check_goes_on
from ..run.state import states_of
from .batches import make_loader
from .dataset import HarmonizationDataset

logger = logging.getLogger("diffharmony")
BAD_IMAGES = "bad_images.json"
AT_ONCE = 16  # pairs that a loader's process reads before it tells

Pairs = TypeVar("Pairs", bound=HarmonizationDataset)


def without_bad_images(dataset: Pairs, config: TrainingConfig) -> Pairs:
    """The data set as it is, or with `data.on_bad_image` skip the same without the pairs that cannot be read.

    The first process reads every pair once, and warns of each bad file. `<run.out>/bad_images.json` keeps which these are (composite ->
    bad file, why), so that a run that goes on leaves out the same ones; the lists without them, `good-<n>.txt` beside it, one for each of
    data.roots, can be trained on later. A dry run writes neither.
    Raises: ValueError where nothing is left of a root; as `check_goes_on`, before anything is written.
    """
    if config.data.on_bad_image == "stop":
        return dataset
    bad = on_main(lambda: _bad_images(dataset, config))
    good = dataset.only(index for index, pair in enumerate(dataset.pairs) if str(pair.composite) not in bad)
    good.bad_images = tuple(sorted({path for path, _ in bad.values()}))
    return good


def _bad_images(dataset: HarmonizationDataset, config: TrainingConfig) -> dict[str, list[str]]:
    check_goes_on(config)
    out = config.run.out
    if states_of(out) and (out / BAD_IMAGES).is_file():
        return read_json(out / BAD_IMAGES)
    order = [range(start, min(start + AT_ONCE, len(dataset))) for start in range(0, len(dataset), AT_ONCE)]
    bad: dict[str, list[str]] = {}
    for found in tqdm(make_loader(_Look(dataset), order, config.data.workers), desc="looking for bad images", unit="batch", dynamic_ncols=True):
        bad |= found
    for why in dict.fromkeys(why for _, why in bad.values()):
        logger.warning("leaving out an image of the data set: %s", why)
    if not config.dry_run:
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(out / BAD_IMAGES) as temporary:
            temporary.write_text(json.dumps(bad, indent=1) + "\n", encoding="utf-8")
        _write_good_lists(dataset, bad, out)
    return bad


class _Look(Dataset):
    """Of some pairs those that cannot be read: composite -> [bad file, why]."""

    def __init__(self, dataset: HarmonizationDataset):
        self.dataset = dataset

    def pack(self, pairs: Iterable[int]) -> dict[str, list[str]]:
        bad = {}
        for pair in pairs:
            try:
                self.dataset.read(pair, np.random.default_rng(pair), self.dataset.config.size)
            except BadImage as error:
                bad[str(self.dataset.pairs[pair].composite)] = [str(error.path), str(error)]
        return bad


def _write_good_lists(dataset: HarmonizationDataset, bad: Container[str], out: Path) -> None:
    composites = (pair.composite for pair in dataset.pairs)
    for number, (root, length) in enumerate(zip(dataset.config.roots, dataset.lengths), start=1):
        good = [path for path in islice(composites, length) if str(path) not in bad]
        with written_whole(out / f"good-{number}.txt") as temporary:
            temporary.write_text("".join(f"{path.relative_to(root).as_posix()}\n" for path in good), encoding="utf-8")
