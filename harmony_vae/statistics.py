"""The statistics of GroupNorms, gathered over the tiles of a feature map, and norms that use them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Moments:
    """How many values, their mean and the sum of their squared distances from it: the last two [B, groups] in float64."""

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, groups: int) -> Moments:
        """values: [B, C, h, w], floating."""
        grouped = values.float().reshape(values.shape[0], groups, -1)
        variance, mean = torch.var_mean(grouped, dim=-1, correction=0)
        count = grouped.shape[-1]
        return cls(count, mean.double(), variance.double() * count)

    def merged(self, other: Moments) -> Moments:
        """Of both together, without a difference of large sums. Source: Chan, Golub, LeVeque 1979, "Updating formulae"."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.scatter + other.scatter + apart.square() * (self.count * other.count / count),
        )


class Statistics:
    """Of each GroupNorm the moments of its input, as far as they were observed."""

    def __init__(self) -> None:
        self._moments: dict[nn.GroupNorm, Moments] = {}

    def __contains__(self, norm: nn.GroupNorm) -> bool:
        return norm in self._moments

    def observe(self, norm: nn.GroupNorm, values: torch.Tensor) -> None:
        """Add a tile [B, C, h, w] of the norm's input, without its margins."""
        seen = Moments.of(values, norm.num_groups)
        self._moments[norm] = self._moments[norm].merged(seen) if norm in self._moments else seen

    def correct(self, norm: nn.GroupNorm, seen: Statistics, large: Statistics, small: Statistics) -> None:
        """Set a norm's moments to those `seen`, moved in units of their own deviation as those in `small` lie from those in `large`."""
        own, wanted, found = (statistics._moments[norm] for statistics in (seen, large, small))
        deviations = [(moments.scatter / moments.count + norm.eps).sqrt() for moments in (own, wanted, found)]
        ratio = deviations[1] / deviations[2]
        mean = own.mean + (wanted.mean - found.mean) / deviations[2] * deviations[0]
        variance = ((deviations[0] * ratio).square() - norm.eps).clamp_min(0)
        self._moments[norm] = Moments(own.count, mean, variance * own.count)

    def normalise(self, norm: nn.GroupNorm, values: torch.Tensor) -> torch.Tensor:
        """What the norm makes of [B, C, ...] values under the observed moments: a new tensor of their dtype."""
        moments = self._moments[norm]
        deviation = (moments.scatter / moments.count + norm.eps).sqrt()
        per_channel = norm.num_channels // norm.num_groups
        inverse, mean = ((1 / deviation).repeat_interleave(per_channel, 1), moments.mean.repeat_interleave(per_channel, 1))
        scale = inverse if norm.weight is None else inverse * norm.weight.double()
        shift = -mean * scale if norm.bias is None else norm.bias.double() - mean * scale
        shape = (*scale.shape, *(1,) * (values.ndim - 2))
        return torch.addcmul(shift.float().view(shape), values.float(), scale.float().view(shape)).to(values.dtype)
