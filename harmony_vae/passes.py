"""A VAE's encoder or decoder as a list of passes, between which whole maps or tiles of them can be held.

A pass is local: a place of its result depends on that place of its input and a few around it, besides the statistics of one GroupNorm
and, for attention, the keys and values of the whole map. A residual block is two passes, with a residual beside the main map between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import nn

from .blocks import layers_of
from .statistics import Statistics
from .tiles import Patch, Region

SCORES = 2**26  # of attention, computed at once where PyTorch has no kernel that needs less


class KeysAndValues(NamedTuple):
    """Of an attention's whole map: each [B, heads, tokens, channels per head]."""

    keys: torch.Tensor
    values: torch.Tensor


class Pass:
    """A step of a network. norm: the GroupNorm of its input. widths: channels of input and result. up, down: how much larger or smaller it is.
    opens, closes: a residual beside the main map. feature: number of the skip feature that an encoder's result is, or that is added to a
    decoder's."""

    norm: nn.GroupNorm | None = None
    widths: tuple[int, int]
    up = down = 1
    opens = closes = False
    feature: int | None = None

    def margin(self, result: int) -> int:
        """How much of its input it must see around a tile, so that `result` around it are right."""
        return result

    def run(self, values: torch.Tensor, statistics: Statistics, context: KeysAndValues | None) -> torch.Tensor:
        raise NotImplementedError


class Convolve(Pass):
    """A convolution, or where `extra` is given the sum of two, of the first channels and the others; behind a norm where one is given."""

    def __init__(self, conv: nn.Conv2d, extra: nn.Conv2d | None = None, norm: nn.GroupNorm | None = None, activation: nn.Module | None = None):
        self.conv, self.extra, self.norm, self.activation = conv, extra, norm, activation
        self.widths = (conv.in_channels + (0 if extra is None else extra.in_channels), conv.out_channels)

    def margin(self, result: int) -> int:
        return result + self.conv.kernel_size[0] // 2

    def run(self, values: torch.Tensor, statistics: Statistics, context: KeysAndValues | None) -> torch.Tensor:
        if self.norm is not None:
            values = statistics.normalise(self.norm, values)
            values = F.silu(values, inplace=True) if isinstance(self.activation, nn.SiLU) else self.activation(values)
        if self.extra is None:
            return self.conv(values)
        own = self.conv.in_channels
        return self.conv(values[:, :own]) + self.extra(values[:, own:])


class Open(Convolve):
    """The first half of a residual block."""

    opens = True

    def __init__(self, resnet: nn.Module):
        super().__init__(resnet.conv1, norm=resnet.norm1, activation=resnet.nonlinearity)
        self.shortcut = resnet.conv_shortcut


class Close(Convolve):
    """The second half of a residual block, to whose result the residual is added."""

    closes = True

    def __init__(self, resnet: nn.Module):
        super().__init__(resnet.conv2, norm=resnet.norm2, activation=resnet.nonlinearity)
        self.divisor = resnet.output_scale_factor


class Resample(Pass):
    """diffusers' Downsample2D, padded at the far sides only, or Upsample2D; each with a convolution."""

    def __init__(self, module: nn.Module, up: int = 1, down: int = 1):
        self.module, self.up, self.down, self.widths = module, up, down, (module.channels, module.out_channels)

    def margin(self, result: int) -> int:
        return 2 * result + 2 if self.down == 2 else result // 2 + 1

    def run(self, values: torch.Tensor, statistics: Statistics, context: KeysAndValues | None) -> torch.Tensor:
        return self.module(values)


class Attend(Pass):
    """Self-attention: every place looks at the whole map, by keys and values that are made of it first."""

    def __init__(self, attention: Attention):
        self.attention, self.norm = attention, attention.group_norm
        self.widths = (self.norm.num_channels, self.norm.num_channels)

    def keys_and_values(self, values: torch.Tensor, statistics: Statistics) -> KeysAndValues:
        tokens = self._tokens(statistics.normalise(self.norm, values))
        return KeysAndValues(*(self._by_head(project(tokens)) for project in (self.attention.to_k, self.attention.to_v)))

    def run(self, values: torch.Tensor, statistics: Statistics, context: KeysAndValues | None) -> torch.Tensor:
        attention = self.attention
        queries = self._by_head(attention.to_q(self._tokens(statistics.normalise(self.norm, values))))
        most = max(1, SCORES // (queries.shape[0] * queries.shape[1] * context.keys.shape[2]))
        found = torch.cat([F.scaled_dot_product_attention(some, *context) for some in queries.split(most, dim=2)], dim=2)
        found = attention.to_out[0](found.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(values.shape)
        return (found + values if attention.residual_connection else found) / attention.rescale_output_factor

    @staticmethod
    def _tokens(values: torch.Tensor) -> torch.Tensor:
        return values.flatten(2).transpose(1, 2)  # [B, C, h, w] -> [B, h*w, C]

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(2, (self.attention.heads, -1)).transpose(1, 2)  # [B, N, C] -> [B, heads, N, C/heads]


def encoder_passes(encoder: Encoder) -> list[Pass]:
    """Of E, or of E_c with the mask's channels behind the image's; the last one gives the moments, before quant_conv.

    Features are numbered as `HarmonyCondition.skip_features`, and the mid block's is one more.
    """
    passes: list[Pass] = [Convolve(encoder.conv_in, getattr(encoder, "add_conv_in", None))]
    ends = [0]
    for block in encoder.down_blocks:
        for resnet, attention in layers_of(block):
            passes += _residual(resnet, attention)
            ends.append(len(passes) - 1)
        for downsampler in block.downsamplers or ():
            passes.append(Resample(downsampler, down=2))
            ends.append(len(passes) - 1)
    passes += _mid_passes(encoder.mid_block)
    ends.append(len(passes) - 1)
    for number, end in enumerate(ends):
        passes[end].feature = number
    return [*passes, Convolve(encoder.conv_out, norm=encoder.conv_norm_out, activation=encoder.conv_act)]


def decoder_passes(decoder: Decoder) -> list[Pass]:
    """Of D, from what its conv_in takes to the image. Source: SPEC §3, "Consumption"."""
    passes: list[Pass] = [Convolve(decoder.conv_in), *_mid_passes(decoder.mid_block)]
    ends = [len(passes) - 1]
    for block in decoder.up_blocks:
        for resnet, attention in layers_of(block):
            passes += _residual(resnet, attention)
            ends.append(len(passes) - 1)
        passes += [Resample(upsampler, up=2) for upsampler in block.upsamplers or ()]
    for number, end in enumerate(reversed(ends)):
        passes[end].feature = number
    return [*passes, Convolve(decoder.conv_out, norm=decoder.conv_norm_out, activation=decoder.conv_act)]


def _residual(resnet: nn.Module, attention: Attention | None) -> list[Pass]:
    return [Open(resnet), Close(resnet), *([] if attention is None else [Attend(attention)])]


def _mid_passes(block: nn.Module) -> list[Pass]:
    passes = _residual(block.resnets[0], None)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        passes += [*([] if attention is None else [Attend(attention)]), *_residual(resnet, None)]
    return passes


def margins(passes: Sequence[Pass], wanted: dict[int, int], most: int | None = None) -> list[int]:
    """The margin of the passes' input, then of each one's result, so that none is seen cut off where it matters.

    wanted: by a pass's place in the list, the least margin of its result. most: of the input; what that takes away is missing further on.
    """
    found = [0] * (len(passes) + 1)
    for place in range(len(passes), 0, -1):
        found[place] = max(found[place], wanted.get(place - 1, 0))
        found[place - 1] = passes[place - 1].margin(found[place])
    if most is not None:
        found[0] = min(found[0], most)
        for place, one in enumerate(passes, start=1):
            found[place] = min(found[place], found[place - 1] * one.up // one.down)
    return found


def advance(
    one: Pass, main: Patch, residual: Patch | None, core: Region, margin: int, statistics: Statistics, context: KeysAndValues | None = None
) -> tuple[Patch, Patch | None]:
    """One pass over a patch: its result, `core` with `margin` around it, and the residual beside that, where one is open.

    main: has the pass's own margin around that besides, as far as the map reaches.
    """
    size = (main.size[0] * one.up // one.down, main.size[1] * one.up // one.down)
    whole = Patch(one.run(main.values, statistics, context), main.region.scaled(one.up, one.down), size)
    made = whole.around(core, margin)
    if one.opens:
        beside = main.crop(made.region)
        return made, beside if one.shortcut is None else beside._replace(values=one.shortcut(beside.values))
    if one.closes:
        made.values.add_(residual.crop(made.region).values)
        if one.divisor != 1:
            made.values.div_(one.divisor)
        return made, None
    return made, residual
