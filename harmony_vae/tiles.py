"""Where tiles lie: regions of feature maps, the tiles that cover one, and the part of a map that a region's values are of. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

# in lockstep, the same to rounding; or one after the other in constant memory, close and the closer the more passes
TILE_MODES = ("exact", "bounded")
Size = tuple[int, int]  # height, width


class Region(NamedTuple):
    """Rows and columns of a feature map, each from a first to one behind the last."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def all_of(cls, size: Size) -> Region:
        return cls(0, size[0], 0, size[1])

    def grown(self, margin: int, size: Size) -> Region:
        """With a margin around it, as far as the map of `size` reaches."""
        return Region(
            max(0, self.top - margin), min(size[0], self.bottom + margin), max(0, self.left - margin), min(size[1], self.right + margin)
        )

    def scaled(self, up: int = 1, down: int = 1) -> Region:
        """The same place in a map that is larger by `up` and smaller by `down`; every side must divide by `down`."""
        return Region(*(side * up // down for side in self))

    def within(self, other: Region) -> tuple[slice, slice]:
        """Where it lies in a tensor that covers `other`."""
        return slice(self.top - other.top, self.bottom - other.top), slice(self.left - other.left, self.right - other.left)


class Patch(NamedTuple):
    """Values [B, C, h, w] of a region of a feature map of `size`."""

    values: torch.Tensor
    region: Region
    size: Size

    @classmethod
    def whole(cls, values: torch.Tensor) -> Patch:
        size = (values.shape[2], values.shape[3])
        return cls(values, Region.all_of(size), size)

    def crop(self, region: Region) -> Patch:
        return self if region == self.region else self._replace(values=self.values[(..., *region.within(self.region))], region=region)

    def around(self, core: Region, margin: int) -> Patch:
        return self.crop(core.grown(margin, self.size))


def tiles_of(size: Size, side: int) -> Iterator[Region]:
    """Tiles of `side` by `side`, row by row, that cover a map of `size` and do not overlap; the last of a row or column may be smaller."""
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Region(top, min(top + side, size[0]), left, min(left + side, size[1]))


def check_tile(tile: int, factor: int) -> None:
    """Refuse a tile that is no whole multiple of `factor`, or under four of it. Raises: ValueError."""
    if not isinstance(tile, int) or isinstance(tile, bool) or tile % factor or tile < 4 * factor:
        raise ValueError(f"tile must be a whole multiple of {factor} and at least {4 * factor}, got {tile!r}. Choose such a size, 512 say.")
