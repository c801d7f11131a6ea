"""Training samples from folders in iHarmony4's layout (SPEC §7), by counter."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ...dataset.pairs import BadImage, DirectoryIndex, Pair, find_pairs, missing_files, name_some, read_list
from ..config import DataConfig
from .batches import BatchLoader, Crop, make_loader, to_float_batch, to_uint8_batch
from .crops import draw_crop, read_crop
from .sampler import BatchSampler, ShuffledSampler

__all__ = [
    "BadImage", "BatchLoader", "BatchSampler", "HarmonizationDataset", "Pair", "ShuffledSampler", "draw_crop", "make_loader", "read_list",
]  # fmt: skip
logger = logging.getLogger("diffharmony")
TRIES = 100  # bad images in a row after which a data set is given up


class HarmonizationDataset(Dataset):
    """Training samples by counter: counter c is sample c of an endless, shuffled stream, mixed from the roots by their weights.

    `dataset[c]` gives composite, real [3,S,S] float32 in [-1,1], mask [1,S,S] float32 in {0,1}, `seed` (an int of the
    sample's own, from which its noise is drawn), and the composite's path as `name`. Everything depends on (seed, c) only,
    so a run can go on from any step, on any number of processes. S is `config.size`, or with `config.sizes` that of the
    step, of `batch_size` samples, that c belongs to. `pack` gives many at once for BatchLoader.
    Raises: ValueError for lists, weights or sizes that do not fit; FileNotFoundError where listed files are missing, unless
    bad images are skipped. When read: BadImage for an image that is damaged, or not of its composite's size.
    """

    def __init__(self, config: DataConfig, seed: int, *, batch_size: int | None = None):
        if config.sizes and batch_size is None:
            raise ValueError(f"batch_size must be the images per step when data.sizes are given, got None for {config.sizes}. Pass it.")
        lists = config.list_files or (config.list_file,) * len(config.roots)
        if len(lists) != len(config.roots):
            raise ValueError(
                f"data.list_files must be one for each of data.roots ({len(config.roots)}), got {len(lists)}. "
                "Name as many, or data.list-file for all."
            )
        self.config, self.seed, self.batch_size = config, seed, batch_size
        self._folders = DirectoryIndex()
        roots = [find_pairs(Path(root), name, self._folders) for root, name in zip(config.roots, lists)]
        self.lengths = tuple(map(len, roots))
        self.pairs = [pair for pairs in roots for pair in pairs]
        self._stream = ShuffledSampler(self.lengths, seed, config.weights)
        self.missing = missing_files(self.pairs, self._folders)
        self._report_missing()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, counter: int) -> dict[str, Any]:
        return _sample(self._crop(counter))

    def pack(self, counters: Iterable[int]) -> dict[str, Any]:
        """The samples of these counters, packed (train/data/batches.py)."""
        return to_uint8_batch([self._crop(counter) for counter in counters])

    def examples(self, count: int, size: int | None = None) -> dict[str, Any]:
        """The first `count` samples of the stream at `size`, or `config.size`, as a batch, for sample sheets."""
        return to_float_batch(to_uint8_batch([self._crop(counter, size or self.config.size) for counter in range(count)]))

    def view(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One sample of pair `index` at `config.size`, with crop, mirroring and noise seed drawn from `rng`."""
        return _sample(self._read(index, rng, self.config.size))

    def first_readable(self, indices: Iterable[int], key: tuple[int, ...], size: int) -> Crop:
        """A crop of the first of these pairs that can be read, or of the very first when bad images are not skipped.

        key: what its box, mirroring and seed are drawn from.
        """
        skipped: list[tuple[str, str]] = []
        for index in indices:
            try:
                return self._read(index, np.random.default_rng(key), size)._replace(skipped=tuple(skipped))
            except BadImage as error:
                if self.config.on_bad_image == "stop":
                    raise
                skipped.append((str(error.path), str(error)))
                last = error
        raise BadImage(
            last.path, f"the data set must hold readable images, got {len(skipped)} bad ones in a row, the last: {last}"
        )

    def _crop(self, counter: int, size: int | None = None) -> Crop:
        if size is None:
            sizes = self.config.sizes
            size = sizes[counter // self.batch_size % len(sizes)] if sizes else self.config.size
        return self.first_readable((self._stream[counter + try_] for try_ in range(TRIES)), (self.seed, 1, counter), size)

    def _read(self, index: int, rng: np.random.Generator, size: int) -> Crop:
        pair = self.pairs[index]
        images = read_crop(pair, size, min_crop=self.config.min_crop, flip=self.config.flip, rng=rng)
        return Crop(*images, seed=int(rng.integers(2**62)), name=str(pair.composite))

    def _report_missing(self) -> None:
        if not self.missing:
            return
        message = f"every listed file must exist, got {len(self.missing)} missing: {name_some(self.missing)}."
        if self.config.on_bad_image == "stop":
            raise FileNotFoundError(f"{message} Complete the data set, mend its list, or pass --data.on-bad-image skip.")
        logger.warning("%s Their pairs are skipped.", message)


def _sample(crop: Crop) -> dict[str, Any]:
    batch = to_float_batch(to_uint8_batch([crop]))
    return {name: batch[name][0] for name in ("composite", "real", "mask", "name")} | {"seed": crop.seed}
