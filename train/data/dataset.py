"""Training samples from folders in iHarmony4's layout (SPEC §7), by index."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ...dataset.pairs import DirectoryIndex, find_pairs, missing_files, name_some
from ..config import DataConfig
from .batches import to_float_batch, to_uint8_batch
from .crops import Crop, read_crop
from .sampler import ShuffledSampler


class HarmonizationDataset(Dataset):
    """Training samples by index: sample i of an endless, shuffled stream, mixed from the roots by their weights.

    `dataset[i]` gives composite, real [3,S,S] float32 in [-1,1], mask [1,S,S] float32 in {0,1}, `seed` (an int of the
    sample's own, from which its noise is drawn), and the composite's path as `name`. Everything depends on (seed, i) only,
    so a run can go on from any step, on any number of processes. S is `config.size`, or with `config.sizes` that of the
    step, of `batch_size` samples, that i belongs to. `pack` gives many at once for BatchLoader.
    Raises: ValueError for lists, weights or sizes that do not fit; FileNotFoundError where listed files are missing, unless
    bad images are to be left out (train/data/bad_images.py). When read: BadImage for an image that is missing, damaged, or not of its
    composite's size.
    """

    bad_images: tuple[str, ...] = ()
    """Files that cannot be used, whose pairs were left out."""

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
        if self.missing and config.on_bad_image == "stop":
            raise FileNotFoundError(
                f"every listed file must exist, got {len(self.missing)} missing: {name_some(self.missing, self._folders)}. Complete the data "
                "set, mend its list, or pass --data.on-bad-image skip."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _sample(self._crop(index))

    def pack(self, indices: Iterable[int]) -> dict[str, Any]:
        """The samples of these indices, packed (train/data/batches.py)."""
        return to_uint8_batch([self._crop(index) for index in indices])

    def examples(self, count: int) -> dict[str, Any]:
        """The first `count` samples of the stream at `config.size` as a batch, for sample sheets."""
        return to_float_batch(to_uint8_batch([self._crop(index, self.config.size) for index in range(count)]))

    def view(self, pair: int, rng: np.random.Generator) -> dict[str, Any]:
        """One sample of pair `pair` at `config.size`, with crop, mirroring and noise seed drawn from `rng`."""
        return _sample(self.read(pair, rng, self.config.size))

    def only(self, pairs: Iterable[int], **changes: Any) -> HarmonizationDataset:
        """The same data set with these of its pairs, in their order, and `changes` of its config.

        Raises: ValueError where a root has none left.
        """
        pairs, part = sorted(pairs), copy.copy(self)
        part.lengths = tuple(np.histogram(pairs, np.cumsum((0, *self.lengths)))[0].tolist())
        if 0 in part.lengths:
            root = self.config.roots[part.lengths.index(0)]
            raise ValueError(f"each of data.roots must keep some of its images, got none of {root}. Leave it out, or mend its images.")
        part.config = replace(self.config, **changes)
        part.pairs = [self.pairs[pair] for pair in pairs]
        part._stream = ShuffledSampler(part.lengths, self.seed, part.config.weights)
        return part

    def read(self, pair: int, rng: np.random.Generator, size: int) -> Crop:
        """A crop of pair `pair`, drawn from `rng`. Raises: BadImage."""
        files = self.pairs[pair]
        images = read_crop(files, size, min_crop=self.config.min_crop, flip=self.config.flip, rng=rng)
        return Crop(*images, seed=int(rng.integers(2**62)), name=str(files.composite))

    def _crop(self, index: int, size: int | None = None) -> Crop:
        if size is None:
            sizes = self.config.sizes
            size = sizes[index // self.batch_size % len(sizes)] if sizes else self.config.size
        return self.read(self._stream[index], np.random.default_rng((self.seed, 1, index)), size)


def _sample(crop: Crop) -> dict[str, Any]:
    batch = to_float_batch(to_uint8_batch([crop]))
    return {name: batch[name][0] for name in ("composite", "real", "mask", "name")} | {"seed": crop.seed}
