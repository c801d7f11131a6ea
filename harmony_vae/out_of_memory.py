"""A Harmony-VAE within the memory that there is: whole images while they fit, then exact tiles, then bounded ones; and what is tried when it runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..common.devices import free_memory, raise_unless_out_of_memory
from .memory import memory_needed
from .tiles import TILE_MODES, Size

if TYPE_CHECKING:
    from .blocks import HarmonyCondition
    from .model import HarmonyVAE

logger = logging.getLogger("diffharmony")

TILE = 512  # image pixels, at most half of the image
MODES = ("auto", *TILE_MODES)
USED = 0.8  # of the free memory, at most, by the estimate


@dataclass(frozen=True)
class Memory:
    """What a program knows of its memory. free: bytes left on a device, None where nobody knows. raise_other: raises an error that is not
    memory's. give_back: frees what only a failed attempt needed."""

    free: Callable[[torch.device], int | None] = free_memory
    raise_other: Callable[[Exception], None] = raise_unless_out_of_memory
    give_back: Callable[[], None] = lambda: None


def fallback_tile(size: Size, factor: int) -> int:
    """Side of a tile in image pixels for an image of `size` that does not fit as a whole: a multiple of `factor`, at least four of it."""
    return max(4, min(TILE, max(size) // 2) // factor) * factor


class WithinMemory:
    """A HarmonyVAE that encodes and decodes in the first way that fits: whole, in exact tiles, in bounded ones.

    mode: of the decode; "auto" is the first way that the estimate says fits, else the one to begin with. tile: of the decode, in image
    pixels; None is `fallback_tile`. When memory runs out the next way is taken, the log says so, and what ran out is not tried again.
    Raises: ValueError for another mode; later what the last way raised.
    """

    def __init__(self, vae: HarmonyVAE, memory: Memory | None = None, *, mode: str = "auto", tile: int | None = None):
        check_mode(mode)
        self._vae, self._memory, self._mode, self._tile = vae, memory or Memory(), mode, tile
        self._inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self._condition: HarmonyCondition | None = None

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """The posterior's mode, unscaled. image: [B,3,H,W] in -1..1, the VAE's dtype and device."""
        tile = fallback_tile(tuple(image.shape[2:]), self._vae.spatial_factor)

        def encode(mode: str | None) -> torch.Tensor:
            found = self._vae.encode(image) if mode is None else self._vae.encode_tiled(image, tile, mode)
            return found.latent_dist.mode()

        return self._first_that_fits(encode, "auto", image, tile, len(image), decoding=False)[0]

    def condition_on(self, image: torch.Tensor, mask: torch.Tensor) -> None:
        """Decode under these from now on. image, mask: as of `encode_condition`."""
        self._inputs, self._condition = (image, mask), None

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """What `decode(z, condition)` gives, [B,3,H,W]; the condition is encoded once. z: [B,c,h,w], unscaled, of condition_on's size."""
        image, mask = self._inputs
        tile = self._tile or fallback_tile(tuple(image.shape[2:]), self._vae.spatial_factor)

        def decode(mode: str | None) -> torch.Tensor:
            if mode is not None:
                return self._vae.decode_tiled(z, image, mask, tile=tile, mode=mode).sample
            if self._condition is None:
                self._condition = self._vae.encode_condition(image, mask)
            return self._vae.decode(z, self._condition).sample

        made, self._mode = self._first_that_fits(decode, self._mode, image, tile, len(z), decoding=True)
        return made

    def _first_that_fits(
        self, attempt: Callable[[str | None], torch.Tensor], mode: str | None, image: torch.Tensor, tile: int, batch: int, decoding: bool
    ) -> tuple[torch.Tensor, str | None]:
        what = "conditional decode" if decoding else "encode"
        if mode == "auto":
            mode = self._chosen(image, tile, batch, decoding, what)
        while True:
            try:
                return attempt(mode), mode
            except Exception as error:
                self._memory.raise_other(error)
                if mode == TILE_MODES[-1]:
                    raise
            # Outside the except block: the exception kept the failed attempt's tensors alive.
            self._condition = None
            self._memory.give_back()
            mode = TILE_MODES[0] if mode is None else TILE_MODES[TILE_MODES.index(mode) + 1]
            logger.warning("Out of memory in the %s: it goes on in tiles of %d px (%s).", what, tile, mode)

    def _chosen(self, image: torch.Tensor, tile: int, batch: int, decoding: bool, what: str) -> str | None:
        free, size = self._memory.free(image.device), tuple(image.shape[2:])
        if free is None:
            return None
        needed = {mode: memory_needed(self._vae, size, mode, tile=tile, batch=batch, decoding=decoding) for mode in (None, TILE_MODES[0])}
        mode = next((mode for mode, bytes in needed.items() if bytes <= USED * free), TILE_MODES[-1])
        if mode is not None:
            logger.info(
                "The %s of %d x %d px needs about %.1f GiB as a whole, of %.1f GiB that are free: in tiles of %d px (%s).",
                what, size[1], size[0], needed[None] / 2**30, free / 2**30, tile, mode,
            )  # fmt: skip
        return mode


def check_mode(mode: str) -> None:
    """Raises: ValueError for anything but one of MODES."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}. Leave it at auto.")
