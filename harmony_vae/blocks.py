"""The conditional encoder E_c, and the decoder pass that consumes its features; built from diffusers' Encoder and Decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import nn


@dataclass(frozen=True)
class HarmonyCondition:
    """What the decoder is conditioned on, for one batch of (image, mask) pairs. One condition serves many latents.

    skip_features: tuple of [B, C_j, H_j, W_j], E_c's features in encoder order, each after its zero convolution.
    mid_skip_feature: [B, C, H/f, W/f], E_c's mid-block output after its zero convolution.
    latent: [B, latent_channels, H/f, W/f], E_c's posterior mode or sample, unscaled.
    f is the VAE's spatial reduction (8 for Stable Diffusion). All in the model's dtype.
    Source: SPEC §3.
    """

    skip_features: tuple[torch.Tensor, ...]
    mid_skip_feature: torch.Tensor
    latent: torch.Tensor

    @property
    def batch_size(self) -> int:
        return self.latent.shape[0]

    def __getitem__(self, index: slice) -> HarmonyCondition:
        """The condition of some of the batch; `index` is a slice, so that the batch dimension stays."""
        return self._map(lambda tensor: tensor[index])

    def to(self, *args, **kwargs) -> HarmonyCondition:
        """Move or cast every tensor, as torch.Tensor.to does."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def _map(self, function) -> HarmonyCondition:
        return HarmonyCondition(
            tuple(function(feature) for feature in self.skip_features),
            function(self.mid_skip_feature),
            function(self.latent),
        )


def zero_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution whose weight and bias start at zero."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def randomize(conv: nn.Conv2d, generator: torch.Generator | None = None) -> None:
    """Start a convolution as PyTorch does, weight and bias uniform in ±1/sqrt(inputs per output), but from a generator."""
    bound = conv.weight[0].numel() ** -0.5
    for parameter in (conv.weight, conv.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


class ConditionalEncoder(Encoder):
    """E_c: the VAE's encoder, with a zero-initialised mask convolution beside conv_in and a zero convolution on every
    skip feature.

    Takes diffusers' Encoder arguments, and `additional_in_channels`, the channels of the mask.
    Source: SPEC §3; parameter names SPEC §10.
    """

    def __init__(self, *, additional_in_channels: int = 1, **encoder_config):
        super().__init__(**encoder_config)
        widths = encoder_config["block_out_channels"]
        layers = encoder_config["layers_per_block"]
        self.add_conv_in = nn.Conv2d(additional_in_channels, widths[0], kernel_size=3, padding=1)
        nn.init.zeros_(self.add_conv_in.weight)
        nn.init.zeros_(self.add_conv_in.bias)
        self.down_block_skip_convs = nn.ModuleList(zero_conv(*pair) for pair in skip_widths(widths, layers))
        self.mid_block_skip_conv = zero_conv(widths[-1], widths[-1])

    @property
    def skip_convs(self) -> list[nn.Conv2d]:
        """The zero convolutions of the skip features in encoder order, then the mid block's."""
        return [*self.down_block_skip_convs, self.mid_block_skip_conv]

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
        """image [B,3,H,W] in [-1,1], mask [B,1,H,W] in {0,1} -> (moments [B,2*latent,H/f,W/f], skip features, mid skip feature)."""
        convs = iter(self.down_block_skip_convs)
        sample = self.conv_in(image) + self.add_conv_in(mask)
        skip_features = [next(convs)(sample)]  # at once, so that what they are made of is not held until the end
        for block in self.down_blocks:
            for layer in layers_of(block):
                sample = _run(self, _ResidualLayer(*layer), sample)
                skip_features.append(next(convs)(sample))
            if block.downsamplers is not None:
                for downsampler in block.downsamplers:
                    sample = downsampler(sample)
                skip_features.append(next(convs)(sample))
        sample = _run(self, self.mid_block, sample)
        mid_skip_feature = self.mid_block_skip_conv(sample)
        moments = self.conv_out(self.conv_act(self.conv_norm_out(sample)))
        return moments, tuple(skip_features), mid_skip_feature


def decode_with_condition(decoder: Decoder, latent: torch.Tensor, condition: HarmonyCondition) -> torch.Tensor:
    """Run diffusers' Decoder, adding the mid skip feature after its mid block and one skip feature, taken from the end of
    the list, after each residual block.

    latent: [B, latent_channels, h, w], after post_quant_conv and with the condition's latent already added.
    Returns the image [B, 3, h*f, w*f]. Source: SPEC §3, "Consumption".
    """
    remaining = list(condition.skip_features)
    sample = decoder.conv_in(latent)
    sample = _run(decoder, decoder.mid_block, sample) + condition.mid_skip_feature
    for block in decoder.up_blocks:
        for layer in layers_of(block):
            sample = _run(decoder, _ResidualLayer(*layer), sample) + remaining.pop()
        if block.upsamplers is not None:
            for upsampler in block.upsamplers:
                sample = upsampler(sample)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(sample)))


def skip_widths(widths: tuple[int, ...], layers_per_block: int) -> list[tuple[int, int]]:
    """(input, output) channels of each skip convolution, in encoder order; the output is its consumer's width."""
    produced = [widths[0]]
    for level, width in enumerate(widths):
        produced += [width] * layers_per_block
        if level < len(widths) - 1:
            produced.append(width)
    consumed = [width for width in widths for _ in range(layers_per_block + 1)]
    return list(zip(produced, consumed, strict=True))


def layers_of(block: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """The residual blocks of an encoder or decoder block, each with the attention that follows it, where one does."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    yield from zip(block.resnets, attentions, strict=True)


class _ResidualLayer:
    def __init__(self, resnet: nn.Module, attention: nn.Module | None):
        self.resnet, self.attention = resnet, attention

    def __call__(self, sample: torch.Tensor) -> torch.Tensor:
        sample = self.resnet(sample, None)
        return sample if self.attention is None else self.attention(sample)


def _run(owner: nn.Module, layer, sample: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and owner.gradient_checkpointing:
        return owner._gradient_checkpointing_func(layer, sample)
    return layer(sample)
