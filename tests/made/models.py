"""The small models that all tests make theirs of: random weights, and no two alike by chance."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel


def vae(widths=(32, 64), layers=1, seed: int | None = 0, groups=32, **config) -> AutoencoderKL:
    """A plain VAE of a level per width. seed None: drawn from where torch's generator stands."""
    _begin(seed)
    levels = len(widths)
    return AutoencoderKL(
        block_out_channels=widths, layers_per_block=layers, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, norm_num_groups=groups, **config,
    ).eval()  # fmt: skip


def unet(
    in_channels=9, widths=(32, 64), attends=(True, False), layers=1, context=64, seed: int | None = 1, groups=32, heads=8
) -> UNet2DConditionModel:
    """A UNet of a level per width, `attends` of which look at a prompt of `context` channels. seed: as above."""
    _begin(seed)
    return UNet2DConditionModel(
        in_channels=in_channels, out_channels=4, block_out_channels=widths, layers_per_block=layers, cross_attention_dim=context,
        down_block_types=tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(attends)),
        attention_head_dim=heads, norm_num_groups=groups,
    ).eval()  # fmt: skip


def least_unet(seed: int | None = None) -> UNet2DConditionModel:
    """One level of 8 channels, a prompt of 8: what a command's test needs."""
    return unet(widths=(8,), attends=(True,), context=8, seed=seed, groups=4, heads=2)


def _begin(seed: int | None) -> None:
    if seed is not None:
        torch.manual_seed(seed)
