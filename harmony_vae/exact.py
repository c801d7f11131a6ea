"""Tiles in lockstep: every pass goes over all tiles of a whole map before the next begins, so that norms and attention see the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .maps import FeatureMap, Store
from .passes import Attend, Pass, advance, margins
from .statistics import Statistics
from .tiles import Region, Size, tiles_of


class TiledFeatures:
    """Skip features, before their convolutions, of any region. Kept ones are read; the others are computed again, from the image or the
    nearest kept one before them, with the statistics of the first time."""

    def __init__(self, passes: Sequence[Pass], source: FeatureMap, statistics: Statistics):
        self._passes, self._source, self._statistics = passes, source, statistics
        self._ends = {one.feature: place for place, one in enumerate(passes) if one.feature is not None}
        self.kept: dict[int, FeatureMap] = {}

    def read(self, number: int, region: Region, device: torch.device) -> torch.Tensor:
        if number in self.kept:
            return self.kept[number].read(region, device).values
        before = max((other for other in self.kept if other < number), default=None)
        start, source = (0, self._source) if before is None else (self._ends[before] + 1, self.kept[before])
        passes = self._passes[start : self._ends[number] + 1]
        around = margins(passes, {})
        main, residual = source.read(region.grown(around[0], source.size), device), None
        for one, margin in zip(passes, around[1:], strict=True):
            main, residual = advance(one, main, residual, region, margin, self._statistics)
        return main.values

    def give_up_above(self, number: int, row: int) -> None:
        if number in self.kept:
            self.kept[number].give_up_above(row)

    def give_up(self, number: int) -> None:
        self.kept.pop(number, None)


@dataclass(frozen=True)
class Lockstep:
    """How an image of `size` is gone over: in tiles of `tile` image pixels, on `device`; maps between passes live in `store`."""

    size: Size
    tile: int
    device: torch.device
    store: Store = None

    def encode(self, passes: Sequence[Pass], pixels: torch.Tensor, keep_features: bool = True) -> tuple[torch.Tensor, TiledFeatures]:
        """The moments [B, C, h, w], and the features. pixels: [B, C, H, W], for E_c with the mask behind the image."""
        statistics, source = Statistics(), FeatureMap.of(pixels)
        features = TiledFeatures(passes, source, statistics)
        computed_again = cheap_to_recompute(passes)
        main, residual = source, None
        for one, following in _with_next(passes):
            main, residual = self._pass(one, following, main, residual, statistics)
            if keep_features and one.feature is not None and one.feature not in computed_again:
                main.kept = True
                features.kept[one.feature] = main
        return self._whole(main), features

    def decode(
        self, passes: Sequence[Pass], latent: torch.Tensor, features: TiledFeatures, convs: Sequence[nn.Module], last: bool = True
    ) -> torch.Tensor:
        """The image [B, 3, H, W]. latent: what the decoder's conv_in takes. convs: by number, of the features. last: these are given up."""
        statistics = Statistics()
        main, residual = FeatureMap.of(latent), None
        for one, following in _with_next(passes):
            number = one.feature

            def add(values: torch.Tensor, core: Region, number=number) -> None:
                values.add_(convs[number](features.read(number, core, self.device)))
                if last:
                    features.give_up_above(number, core.top)

            main, residual = self._pass(one, following, main, residual, statistics, None if number is None else add)
            if last and number is not None:
                features.give_up(number)
        return self._whole(main)

    def _pass(
        self, one: Pass, following: Pass | None, main: FeatureMap, residual: FeatureMap | None, statistics: Statistics,
        add: Callable[[torch.Tensor, Region], None] | None = None,
    ) -> tuple[FeatureMap, FeatureMap | None]:  # fmt: skip
        """Go over all tiles: the pass's result, and the residual beside it where it opens one. What is not kept of its input is given up."""
        size = (main.size[0] * one.up // one.down, main.size[1] * one.up // one.down)
        side = self.tile * size[0] // self.size[0]
        store = self.device if following is None else self.store
        shares_input = one.opens and one.shortcut is None
        beside = main if shares_input else FeatureMap(size, side, store) if one.opens else None
        # A tile of the residual is read before its result is written, and not again.
        result = residual if one.closes and not residual.kept else FeatureMap(size, side, store)
        context = one.keys_and_values(self._whole(main), statistics) if isinstance(one, Attend) else None
        around = one.margin(0)
        for core in tiles_of(size, side):
            seen = core.scaled(one.down, one.up).grown(around, main.size)
            made, opened = advance(
                one, main.read(seen, self.device), residual.read(core, self.device) if one.closes else None, core, 0, statistics, context
            )
            if add is not None:
                add(made.values, core)
            if following is not None and following.norm is not None:
                statistics.observe(following.norm, made.values)
            result.write(made)
            if one.opens and not shares_input:
                beside.write(opened)
            if not shares_input and not main.kept:
                main.give_up_above(seen.top)
        return result, beside

    def _whole(self, one: FeatureMap) -> torch.Tensor:
        return one.read(Region.all_of(one.size), self.device).values


def cheap_to_recompute(passes: Sequence[Pass]) -> set[int]:
    """The skip features of full resolution: they are most of the memory, and local in the image once the statistics are known."""
    found = set()
    for one in passes:
        if one.down != 1 or isinstance(one, Attend):
            break
        if one.feature is not None:
            found.add(one.feature)
    return found


def _with_next(passes: Sequence[Pass]) -> zip:
    return zip(passes, [*passes[1:], None], strict=True)
