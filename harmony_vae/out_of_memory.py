"""A conditional decode that goes on where memory runs out: whole, then in exact tiles, then in bounded ones."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from .tiles import TILE_MODES, Size

logger = logging.getLogger("diffharmony")

TILE = 512  # image pixels, at most half of the image


def fallback_tile(size: Size, factor: int) -> int:
    """Side of a tile in image pixels for an image of `size` that does not fit as a whole: a multiple of `factor`, at least four of it."""
    return max(4, min(TILE, max(size) // 2) // factor) * factor


def decode_in_less_memory(
    decode: Callable[[str | None], torch.Tensor], mode: str | None, tile: int, *, raise_other: Callable[[Exception], None], free: Callable[[], None]
) -> tuple[torch.Tensor, str | None]:
    """What `decode(mode)` gives, and the mode that it took: None is the whole image, else one of TILE_MODES, tried from `mode` on.

    tile: what the log says. raise_other: raises an error that is not memory's. free: gives up what only the failed attempt needed.
    Raises: what `decode` raised last, where bounded tiles do not fit either.
    """
    while True:
        try:
            return decode(mode), mode
        except Exception as error:
            raise_other(error)
            if mode == TILE_MODES[-1]:
                raise
        # Outside the except block: the exception kept the failed attempt's tensors alive.
        free()
        mode = TILE_MODES[0] if mode is None else TILE_MODES[TILE_MODES.index(mode) + 1]
        logger.warning("Out of memory in the conditional decode: decoding in tiles of %d px (%s), under the same condition.", tile, mode)
