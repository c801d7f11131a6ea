"""Overlapping tiles over a latent: where they lie, and how their decoded pixels are blended. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

OVERLAP = 0.25  # of a tile, shared with its neighbour and blended linearly
Window = tuple[slice, slice]


@dataclass(frozen=True)
class TileLayout:
    """Tiles of `tile` pixels, whose latents are smaller by `factor`, over a latent of (height, width)."""

    latent_size: tuple[int, int]
    tile: int
    factor: int

    def __post_init__(self):
        check_tile(self.tile, self.factor)

    def __iter__(self) -> Iterator[tuple[Window, Window]]:
        """(window of the latent, window of the image) of each tile."""
        size = self.tile // self.factor
        rows, columns = (_starts(length, size) for length in self.latent_size)
        for top in rows:
            for left in columns:
                latent = (slice(top, top + size), slice(left, left + size))
                yield latent, tuple(slice(part.start * self.factor, part.stop * self.factor) for part in latent)

    def weights(self, window: Window, shape: torch.Size) -> torch.Tensor:
        """Blending weights [1,1,H,W] of the tile at a latent window, decoded to `shape` (H, W): rising over the overlap at every side
        that has a neighbour."""
        overlap = max(1, int(self.tile // self.factor * OVERLAP) * self.factor)
        sides = []
        for length, part, total in zip(shape, window, self.latent_size):
            weight = torch.ones(length)
            rise = (torch.arange(min(overlap, length)) + 1.0) / (overlap + 1)
            if part.start > 0:
                weight[: len(rise)] *= rise
            if part.stop < total:
                weight[-len(rise) :] *= rise.flip(0)
            sides.append(weight)
        return (sides[0][:, None] * sides[1][None, :])[None, None]


def check_tile(tile: int, factor: int) -> None:
    """Refuse a tile that is no whole multiple of `factor`, or under four of it. Raises: ValueError."""
    if not isinstance(tile, int) or isinstance(tile, bool) or tile % factor or tile < 4 * factor:
        raise ValueError(f"tile must be a whole multiple of {factor} and at least {4 * factor}, got {tile!r}. Choose such a size, 512 say.")


def _starts(length: int, size: int) -> list[int]:
    """Latent offsets of tiles that cover `length`, evenly spread, each overlapping its neighbour by at least OVERLAP."""
    if length <= size:
        return [0]
    step = max(1, int(size * (1 - OVERLAP)))
    count = -(-(length - size) // step) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]
