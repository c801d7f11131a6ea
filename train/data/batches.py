"""From samples to batches: packed as 8 bits by the loader's processes, made floating in this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from ...dataset.pairs import BadImage
from .crops import Crop

IMAGES = ("composite", "real")


def to_uint8_batch(crops: list[Crop]) -> dict[str, Any]:
    """The crops as a batch of uint8 tensors: a quarter of what floating ones would be to send from process to process."""
    return {
        # default_collate, which in a loader's process stacks straight into the memory that is shared
        **{name: default_collate([getattr(crop, name) for crop in crops]) for name in (*IMAGES, "mask")},
        "seed": torch.tensor([crop.seed for crop in crops]),
        "name": [crop.name for crop in crops],
    }


def to_float_batch(packed: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """A packed batch as tasks take it: composite, real [B,3,S,S] float32 in [-1,1], mask [B,1,S,S] float32 in {0,1}; other
    tensors but `seed`, which stays on the CPU, float32 too."""
    batch = dict(packed)
    for name, value in packed.items():
        if torch.is_tensor(value) and name != "seed":
            value = value.to(device, non_blocking=True)
            whole = not value.is_floating_point() and name not in (*IMAGES, "mask")
            batch[name] = value if whole else value.float()
            if name in IMAGES and value.dtype == torch.uint8:
                batch[name].div_(127.5).sub_(1.0)
    return batch


class BatchLoader:
    """The batches of a dataset, read by other processes ahead of time.

    The dataset makes them by `pack(indices)` (see `to_uint8_batch` above), or is one of single samples, which are then collated.
    Iterating raises BadImage for an image that cannot be read.
    """

    def __init__(self, dataset: Dataset, batches: Iterable[list[int]], workers: int, device: torch.device | None = None):
        self.device = device
        self._loader = DataLoader(
            _Packed(dataset), sampler=batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for packed in self._loader:
            if "bad_image" in packed:
                raise BadImage(*packed["bad_image"])
            yield to_float_batch(packed, self.device)


class _Packed(Dataset):
    """A dataset by batches. A bad image is told, not raised: raised in another process, it would come with its traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> dict[str, Any]:
        if not hasattr(self.dataset, "pack"):
            return default_collate([self.dataset[index] for index in indices])
        try:
            return self.dataset.pack(indices)
        except BadImage as error:
            return {"bad_image": (error.path, str(error))}


def make_loader(dataset: Dataset, batches: Iterable[list[int]], workers: int, device: torch.device | None = None) -> BatchLoader:
    """Batches for tasks, on `device` (the CPU when None), read by `workers` processes, or this one when 0."""
    return BatchLoader(dataset, batches, workers, device)
