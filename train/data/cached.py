"""What a frozen network makes of the images, computed once and kept in a file: latents, features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...common.devices import keep_freed_memory
from ...common.files import written_whole
from .batches import make_loader, to_uint8_batch
from .crops import Crop
from .dataset import HarmonizationDataset
from .sampler import ShuffledSampler

logger = logging.getLogger("diffharmony")


class CachedDataset(Dataset):
    """Training samples by index, as HarmonizationDataset's, but of what was made of the images.

    Gives each of `tensors` as float32, `seed`, `name`; `pack` gives them many at once, as they are stored.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], names: list[str], seed: int, stream: ShuffledSampler):
        self.tensors, self.names, self.seed = tensors, names, seed
        self._stream = stream

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int | str]:
        packed = self.pack([index])
        return {**{name: packed[name][0].float() for name in self.tensors}, "seed": int(packed["seed"]), "name": packed["name"][0]}

    def pack(self, indices: Iterable[int]) -> dict[str, Any]:
        """The samples of these indices, packed (train/data/batches.py)."""
        indices = list(indices)
        rows = [self._stream[index] for index in indices]
        seeds = [int(np.random.default_rng((self.seed, 1, index)).integers(2**62)) for index in indices]
        return {
            **{name: tensor[rows] for name, tensor in self.tensors.items()},
            "seed": torch.tensor(seeds),
            "name": [self.names[row] for row in rows],
        }


class Views(Dataset):
    """`views` crops of each pair, each by its own seed."""

    def __init__(self, dataset: HarmonizationDataset, views: int):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset.pairs) * self.views

    def pack(self, rows: Iterable[int]) -> dict[str, Any]:
        return to_uint8_batch([self._crop(*divmod(row, self.views)) for row in rows])

    def _crop(self, pair: int, view: int) -> Crop:
        return self.dataset.read(pair, np.random.default_rng((self.dataset.seed, 2, pair, view)), self.dataset.config.size)


@torch.no_grad()
def cached(
    path: Path, views: Views, compute: Callable[[dict[str, Any]], dict[str, torch.Tensor]], *, seed: int, device: torch.device,
    batch_size: int = 16,
) -> CachedDataset:  # fmt: skip
    """What `compute` makes of a batch, for every cut, or what `path` holds where the same call wrote it before.

    The file holds float16; it appears whole or not at all. Its name must say what it was made from.
    """
    stream = ShuffledSampler([length * views.views for length in views.dataset.lengths], seed, views.dataset.config.weights)
    if path.is_file():
        logger.info("reading %s from %s", *_words(path))
    else:
        _write(path, views, compute, device, batch_size)
    names = [str(pair.composite) for pair in views.dataset.pairs for _ in range(views.views)]
    return CachedDataset(load_file(path), names, seed, stream)


def files_of(dataset: HarmonizationDataset) -> list[tuple[str, int, int]]:
    """Path, size and time of change of every image, for a fingerprint."""
    files = (path for pair in dataset.pairs for path in (pair.composite, pair.mask, pair.real))
    return [(str(path), status.st_size, status.st_mtime_ns) for path, status in ((path, path.stat()) for path in files)]


def crop_settings(dataset: HarmonizationDataset) -> dict[str, str]:
    """How a data set's images are cut, for a fingerprint."""
    return {name: str(value) for name, value in vars(dataset.config).items() if name not in ("workers", "weights")}


def _write(path: Path, views: Views, compute, device: torch.device, batch_size: int) -> None:
    if device.type == "cpu":
        keep_freed_memory()
    parts: dict[str, list[torch.Tensor]] = {}
    batches = [list(range(start, min(start + batch_size, len(views)))) for start in range(0, len(views), batch_size)]
    loader = make_loader(views, batches, views.dataset.config.workers, device)
    for batch in tqdm(loader, desc=_words(path)[0], unit="batch", dynamic_ncols=True):
        for name, values in compute(batch).items():
            parts.setdefault(name, []).append(values.half().cpu())
    with written_whole(path) as temporary:
        save_file({name: torch.cat(pieces).contiguous() for name, pieces in parts.items()}, temporary)


def _words(path: Path) -> tuple[str, Path]:
    return path.name.partition("-")[0], path
