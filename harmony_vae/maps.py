"""Feature maps in bands of rows, which may live on another device or in files, and are given up band by band."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from .tiles import Patch, Region, Size

Store = torch.device | str | Path | None


class FeatureMap:
    """A map [B, C, H, W] that is written tile by tile and read as regions; a band of rows exists once something is written to it.

    size: (H, W). rows: of a band. store: the device where it lives, or a folder for memory-mapped files, or None: where it is written from.
    kept: it is needed later on, and must be neither overwritten nor given up.
    """

    def __init__(self, size: Size, rows: int, store: Store = None, kept: bool = False):
        self.size, self.kept, self._rows, self._store = size, kept, rows, store
        self._bands: list[torch.Tensor | None] = [None] * -(-size[0] // rows)

    @classmethod
    def of(cls, values: torch.Tensor) -> FeatureMap:
        """The map that a tensor is, to be kept."""
        whole = cls(tuple(values.shape[2:]), values.shape[2], kept=True)
        whole._bands[0] = values
        return whole

    def write(self, patch: Patch) -> None:
        for index, part in self._parts(patch.region):
            if self._bands[index] is None:
                top = index * self._rows
                rows = min(self._rows, self.size[0] - top)
                self._bands[index] = self._empty((*patch.values.shape[:2], rows, self.size[1]), patch.values)
            self._band(index, part).copy_(patch.crop(part).values)

    def read(self, region: Region, device: torch.device) -> Patch:
        parts = [self._band(index, part).to(device) for index, part in self._parts(region)]
        return Patch(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2), region, self.size)

    def give_up_above(self, row: int) -> None:
        """Free the bands that end at or before a row."""
        for index in range(row // self._rows):
            self._bands[index] = None

    def _parts(self, region: Region) -> list[tuple[int, Region]]:
        first, last = region.top // self._rows, (region.bottom - 1) // self._rows
        return [
            (index, region._replace(top=max(region.top, index * self._rows), bottom=min(region.bottom, (index + 1) * self._rows)))
            for index in range(first, last + 1)
        ]

    def _band(self, index: int, part: Region) -> torch.Tensor:
        top = index * self._rows
        return self._bands[index][..., part.top - top : part.bottom - top, part.left : part.right]

    def _empty(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        if not isinstance(self._store, Path):
            return torch.empty(shape, dtype=like.dtype, device=self._store or like.device)
        handle, name = tempfile.mkstemp(dir=self._store, suffix=".map")
        os.close(handle)
        band = torch.from_file(name, shared=True, size=torch.Size(shape).numel(), dtype=like.dtype).view(shape)
        if os.name == "posix":
            os.unlink(name)  # what is mapped stays until nothing maps it
        return band
