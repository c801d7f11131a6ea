"""Tiles one after the other, each through the whole network, in memory that does not grow with the image.

What a tile cannot see of the image, the statistics of norms and what attention looks at, is estimated from the image made small, where all
norms agree with each other. A pass over all tiles then measures how far that is off, and the small image is gone through again with this
difference kept: statistics as measured would not do, for each was measured while those before it were wrong, and that adds up with depth.
The more the small image is like the whole, the faster that converges, so what is decoded in it is the latent of a small image.
Source: Brandt 1977, "Multi-level adaptive solutions to boundary-value problems", the full approximation scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .passes import Attend, KeysAndValues, Pass, advance, margins
from .statistics import Statistics
from .tiles import Patch, Region, Size, tiles_of

HALO = 6  # latent pixels around a tile that it sees
SMALL = 256  # longer side in pixels of the image made small, or half a tile where that is more, but at most what a tile sees
LOCAL = 9  # latent pixels of the small image, odd: over such squares its latent has the means of what is decoded
TOKENS = 128 * 128  # that attention looks at: those of a larger latent are averaged in squares


class Known:
    """Of a whole image the statistics of norms, and for each attention its input, averaged in squares to at most TOKENS places.

    correction: what tiles measured and what the small image gave, both under the same statistics; see above. `seen` is what was observed
    before it was corrected.
    """

    def __init__(self, latent_size: Size, correction: tuple[Known, Known] | None = None):
        self.statistics = Statistics()
        self._correction = correction
        self.seen = self if correction is None else Known(latent_size)
        self._side = next(n for n in range(1, max(latent_size) + 1) if math.prod(-(-length // n) for length in latent_size) <= TOKENS)
        self._size = latent_size
        self._inputs: dict[Attend, torch.Tensor] = {}
        self._contexts: dict[Attend, KeysAndValues] = {}

    def observe(self, one: Pass, core: Patch) -> None:
        """Add a tile's input to a pass, without its margin; of the image itself, or of all of it made small."""
        if self._correction is not None:
            self.seen.observe(one, core)
            self._correct(one, *self._correction)
            return
        if one.norm is not None:
            self.statistics.observe(one.norm, core.values)
        if isinstance(one, Attend):
            self._look(one, core)

    def _correct(self, one: Pass, large: Known, small: Known) -> None:
        if one.norm is not None:
            self.statistics.correct(one.norm, self.seen.statistics, large.statistics, small.statistics)
        if isinstance(one, Attend):
            self._inputs[one] = self.seen._inputs[one] + (large._inputs[one] - small._inputs[one])

    def context(self, one: Pass) -> KeysAndValues | None:
        if not isinstance(one, Attend):
            return None
        if one not in self._contexts:
            self._contexts[one] = one.keys_and_values(self._inputs[one], self.statistics)
        return self._contexts[one]

    def _look(self, one: Attend, core: Patch) -> None:
        grid = [-(-length // self._side) for length in self._size]
        if core.size != self._size:
            self._inputs[one] = F.interpolate(core.values, grid, mode="bilinear")
            return
        if one not in self._inputs:
            self._inputs[one] = core.values.new_zeros(*core.values.shape[:2], *grid)
        region = core.region
        rows = _averaging(region.top, region.bottom, self._side, self._size[0]).to(core.values)
        columns = _averaging(region.left, region.right, self._side, self._size[1]).to(core.values)
        top, left = region.top // self._side, region.left // self._side
        self._inputs[one][:, :, top : top + len(rows), left : left + len(columns)] += rows @ core.values @ columns.T


def _averaging(start: int, stop: int, side: int, length: int) -> torch.Tensor:
    """[cells, places]: what places start..stop of a line of `length` add to the means of its cells of `side` places."""
    places = torch.arange(start, stop)
    cells = places // side
    shares = 1.0 / ((cells + 1).mul(side).clamp_max(length) - cells * side)
    return torch.zeros(int(cells[-1] - cells[0]) + 1, len(places)).index_put_((cells - cells[0], places - start), shares)


class TileByTile:
    """An encoder and, where given, the decoder that takes its features; see `HarmonyVAE.decode_tiled`.

    convs: by number, of the skip features. latent_of: what the decoder takes, of moments and z of one region. encode: z of pixels that are
    decoded as they are.
    """

    def __init__(
        self, encoder: Sequence[Pass], factor: int, tile: int, decoder: Sequence[Pass] = (), convs: Sequence[nn.Module] = (),
        latent_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None, encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):  # fmt: skip
        self._encoder, self._decoder, self._convs, self._latent_of, self._encode = encoder, decoder, convs, latent_of, encode
        self._factor, self._tile = factor, tile
        self._around_decoder = margins(decoder, {}, HALO)
        self._around_feature = {one.feature: margin for one, margin in zip(decoder, self._around_decoder[1:]) if one.feature is not None}
        wanted = {place: self._around_feature.get(one.feature, 0) for place, one in enumerate(encoder)}
        self._around_encoder = margins(encoder, {**wanted, len(encoder) - 1: self._around_decoder[0]}, HALO * factor)

    def run(self, pixels: torch.Tensor, z: torch.Tensor | None = None, refinements: int = 1) -> torch.Tensor:
        """The image [1, 3, H, W], or without a decoder the moments [1, 2c, h, w].

        pixels: [1, C, H, W], for E_c with the mask behind the image. z: [1, c, h, w].
        """
        size = (pixels.shape[2] // self._factor, pixels.shape[3] // self._factor)
        small_pixels, small_z = self._made_small(pixels, z)
        known = Known(size)
        self._pass(small_pixels, small_z, known, known)
        for _ in range(refinements):
            large = Known(size)
            for _ in self._tiles(pixels, z, known, large):
                pass
            known = Known(size, (large, known.seen))
            self._pass(small_pixels, small_z, known, known)
        result: torch.Tensor | None = None
        for made in self._tiles(pixels, z, known):
            if result is None:
                result = made.values.new_empty(*made.values.shape[:2], *made.size)
            Patch.whole(result).crop(made.region).values.copy_(made.values)
        return result

    def _tiles(self, pixels: torch.Tensor, z: torch.Tensor | None, known: Known, measured: Known | None = None) -> Iterator[Patch]:
        size = (pixels.shape[2] // self._factor, pixels.shape[3] // self._factor)
        for core in tiles_of(size, self._tile // self._factor):
            yield self._one(core, pixels, z, known, measured)

    def _pass(self, pixels: torch.Tensor, z: torch.Tensor | None, known: Known, measured: Known) -> None:
        self._one(Region.all_of((pixels.shape[2] // self._factor, pixels.shape[3] // self._factor)), pixels, z, known, measured)

    def _made_small(self, pixels: torch.Tensor, z: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Averaged to SMALL; z with the detail of its latent, for an averaged latent is less varied than any image's."""
        size = [side // self._factor for side in pixels.shape[2:]]
        seen = self._tile + 2 * HALO * self._factor
        shrink = max(1.0, max(size) * self._factor / min(seen, max(self._tile // 2, SMALL)))
        if shrink == 1:
            return pixels, z
        size = [max(1, round(side / shrink)) for side in size]
        pixels = F.interpolate(pixels, [side * self._factor for side in size], mode="area")
        if z is None:
            return pixels, None
        own = self._encode(pixels)
        return pixels, own + F.avg_pool2d(F.interpolate(z, size, mode="area") - own, LOCAL, 1, LOCAL // 2, count_include_pad=False)

    def _one(self, core: Region, pixels: torch.Tensor, z: torch.Tensor | None, known: Known, measured: Known | None) -> Patch:
        """One tile, `core` of the latent, through the networks. measured: where what it sees is added; may be `known` itself."""
        features: dict[int, Patch] = {}

        def keep(one: Pass, made: Patch, inner: Region) -> None:
            if one.feature in self._around_feature:
                seen = made.around(inner, self._around_feature[one.feature])
                features[one.feature] = seen._replace(values=seen.values.clone())  # a view would hold the whole map

        def add(one: Pass, made: Patch, inner: Region) -> None:
            if one.feature is not None:
                made.values.add_(self._convs[one.feature](features.pop(one.feature).values))

        moments = _through(self._encoder, self._around_encoder, core.scaled(up=self._factor), Patch.whole(pixels), known, measured, keep)
        if not self._decoder:
            return moments
        latent = self._latent_of(moments.values, Patch.whole(z).crop(moments.region).values)
        return _through(self._decoder, self._around_decoder, core, moments._replace(values=latent), known, measured, add)


def _through(
    passes: Sequence[Pass], around: Sequence[int], core: Region, main: Patch, known: Known, measured: Known | None,
    visit: Callable[[Pass, Patch, Region], None],
) -> Patch:  # fmt: skip
    main, residual = main.around(core, around[0]), None
    for one, margin in zip(passes, around[1:], strict=True):
        if measured is not None:
            measured.observe(one, main.crop(core))
        core = core.scaled(one.up, one.down)
        main, residual = advance(one, main, residual, core, margin, known.statistics, known.context(one))
        visit(one, main, core)
    return main
