"""How much memory a Harmony-VAE needs for an image: an estimate from the sizes of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .bounded import HALO
from .exact import cheap_to_recompute
from .passes import Pass, decoder_passes, encoder_passes
from .tiles import TILE_MODES, Size

if TYPE_CHECKING:
    from .model import HarmonyVAE

# As often as its input and its result are long a pass needs memory: for the copies of norm and activation, and kernels' own layouts.
COPIES = 3


def memory_needed(vae: HarmonyVAE, size: Size, mode: str | None = None, *, tile: int = 512, batch: int = 1, decoding: bool = True) -> int:
    """Bytes of a conditional decode of images of `size`, or of an encode, besides weights, images and latents.

    size: (height, width) in pixels. mode: None for whole images, `batch` of them at once; else one of TILE_MODES, in tiles of `tile`
    pixels, one image after the other. decoding: False for `encode` alone. Source: issue 12; `make bench` measures beside it.
    """
    encoder, convs = encoder_passes(vae.conditional_encoder if decoding else vae.encoder), vae.conditional_encoder.skip_convs
    decoder = decoder_passes(vae.decoder) if decoding else []
    factor = vae.spatial_factor
    latent = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
    if mode == TILE_MODES[-1]:
        latent = tuple(min(side, tile // factor + 2 * HALO) for side in latent)
    steps = [*_steps(encoder, (latent[0] * factor, latent[1] * factor))], [*_steps(decoder, latent)]
    if mode == TILE_MODES[0]:
        rows, share = min(1.0, tile / size[0]), min(1.0, tile / size[0]) * min(1.0, tile / size[1])
        recomputed = cheap_to_recompute(encoder)
        kept = {step.one.feature: step.made for step in steps[0] if step.one.feature not in recomputed} if decoding else {}
        values = _most(*steps, kept, lambda step: step.maps(rows) + COPIES * share * (step.taken + step.made))
    else:
        features = {one.feature: places * convs[one.feature].out_channels for one, _, _, _, places in steps[0] if one.feature is not None}
        values = sum(features.values()) * decoding + max(COPIES * (step.taken + step.made) for step in (*steps[0], *steps[1]))
        values *= 1 if mode else batch
    return math.ceil(values) * vae.dtype.itemsize


class _Step(NamedTuple):
    """A pass over whole maps: how many values it takes and makes, those of the residual beside it, and places of the map that it makes."""

    one: Pass
    taken: int
    made: int
    residual: int
    places: int

    def maps(self, rows: float) -> float:
        """Values of the maps that are there at once, where the input is given up as the result grows, but for a share of rows."""
        return max(self.taken, self.made) + self.residual + rows * min(self.taken, self.made)


def _steps(passes: Sequence[Pass], size: Size) -> Iterator[_Step]:
    places, residual = size[0] * size[1], 0
    for one in passes:
        wide, narrow = one.widths
        taken = places * wide
        places = places * one.up**2 // one.down**2
        made = places * narrow
        residual = made if one.opens else residual
        yield _Step(one, taken, made, residual, places)
        residual = 0 if one.closes else residual


def _most(encoder: Sequence[_Step], decoder: Sequence[_Step], kept: dict[int | None, int], cost: Callable[[_Step], float]) -> float:
    """The most values at any time, where the encoder's features `kept` are given up as the decoder takes them."""
    held, most = 0, 0.0
    for sign, steps in ((1, encoder), (-1, decoder)):
        for step in steps:
            most = max(most, held + cost(step))
            held += sign * kept.get(step.one.feature, 0) if step.one.feature is not None else 0
    return most
