"""A mask's edge: which side is the foreground, grown or shrunk, feathered."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

LARGEST_REACH = 256  # pixels
SQUARE_SHARE = math.sqrt(2) - 1  # of an octagon's reach; the rest is a diamond's, so that all eight sides are as far away


def edit_mask(mask: torch.Tensor, *, invert: bool = False, grow: int = 0, feather: int = 0) -> torch.Tensor:
    """The mask inverted, then grown, then feathered. mask, returns: [B, 1, H, W] float32, 0..1. Raises: as `grow_mask`, `feather_mask`."""
    return feather_mask(grow_mask(1 - mask if invert else mask, grow), feather)


def grow_mask(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move the foreground's edge outwards by so many pixels, inwards where negative, in the shape of an octagon; soft edges stay soft.

    mask, returns: [B, 1, H, W] float32, 0..1. At the image's border nothing shrinks.
    Raises: ValueError for another number of pixels than -256..256.
    """
    _check_reach("mask grow", pixels, -LARGEST_REACH)
    reach, sign = abs(pixels), 1 if pixels > 0 else -1
    square = round(reach * SQUARE_SHARE)

    def grown(values: torch.Tensor) -> torch.Tensor:
        values = _spread(_spread(sign * values, (2 * square + 1, 1)), (1, 2 * square + 1))
        for _ in range(reach - square):  # no separable filter makes a diamond
            values = torch.maximum(_spread(values, (3, 1)), _spread(values, (1, 3)))
        return sign * values

    return _around_foreground(mask, reach, grown)


def feather_mask(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Soften the foreground's edge over so many pixels to either side, by a Gaussian of half as many; not at the image's border.

    mask, returns: [B, 1, H, W] float32, 0..1. Raises: ValueError for another number of pixels than 0..256.
    """
    _check_reach("mask feather", pixels, 0)
    places = torch.arange(-pixels, pixels + 1, dtype=torch.float32, device=mask.device)
    kernel = torch.exp(-2 * (places / max(pixels, 1)).square())
    kernel = kernel / kernel.sum()

    def feathered(values: torch.Tensor) -> torch.Tensor:
        values = F.pad(values, (pixels,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(values, kernel[None, None, :, None]), kernel[None, None, None, :]).clamp(0, 1)

    return _around_foreground(mask, pixels, feathered)


def _spread(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.max_pool2d(values, size, stride=1, padding=[side // 2 for side in size])


def _around_foreground(mask: torch.Tensor, reach: int, changed: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`changed` of what lies within reach of each mask's foreground: beyond it there is nothing to change."""
    if reach == 0:
        return mask
    out = mask.clone()
    for index, one in enumerate(mask):
        rows, columns = (one.amax(dim=(0, other)).nonzero() for other in (2, 1))
        if len(rows):
            place = tuple(slice(max(0, int(found[0]) - reach), int(found[-1]) + reach + 1) for found in (rows, columns))
            out[(slice(index, index + 1), slice(None), *place)] = changed(one[(None, slice(None), *place)])
    return out


def _check_reach(name: str, pixels: int, least: int) -> None:
    if isinstance(pixels, bool) or not isinstance(pixels, int) or not least <= pixels <= LARGEST_REACH:
        raise ValueError(f"{name} must be a whole number of pixels in {least}..{LARGEST_REACH}, got {pixels!r}. 0 leaves the mask as it is.")
