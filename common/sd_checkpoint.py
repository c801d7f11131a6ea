"""Stable Diffusion 1.x checkpoints in the original key layout: their VAE, UNet and text encoder as diffusers and transformers have them.

Diffusers' own conversion renames the parameters. The configuration is read off the shapes, so that nothing is fetched: what
shapes do not show is built into the original code (32 groups per normalisation, 8 attention heads).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .checkpoint import load_strictly

Tensors = dict[str, torch.Tensor]

VAE_PREFIX = "first_stage_model."
UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.transformer."
VAE_MARK = "encoder.down.0.block.0.conv1.weight"
TEXT_MARK = f"{TEXT_PREFIX}text_model.embeddings.token_embedding.weight"
# What a training run of the original code leaves in a VAE's own file.
NOT_WEIGHTS = ("loss.", "model_ema.")
OTHER_FAMILIES = "conditioner."  # SDXL: other latents and other text encoders
GROUPS = 32
HEADS = 8
TEXT_HEAD_WIDTH = 64
PROMPT_LENGTH = 77


def convert_vae(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    """The VAE of an original checkpoint: (AutoencoderKL's config, its parameters by diffusers' names).

    Raises: ValueError for SDXL's checkpoints, whose latents are scaled otherwise, and for parameters that an AutoencoderKL of
    Stable Diffusion's kind has no place for.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    _refuse_other_families(tensors, path)
    prefix = VAE_PREFIX if VAE_PREFIX + VAE_MARK in tensors else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in found.items() if not name.startswith(NOT_WEIGHTS)}
    levels = _count(found, "encoder.down.{}.block.0.conv1.weight")
    config = {
        "in_channels": _shape(found, "encoder.conv_in.weight", path)[1],
        "out_channels": _shape(found, "decoder.conv_out.weight", path)[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [_shape(found, f"encoder.down.{level}.block.0.conv1.weight", path)[0] for level in range(levels)],
        "layers_per_block": _count(found, "encoder.down.0.block.{}.conv1.weight"),
        "latent_channels": _shape(found, "decoder.conv_in.weight", path)[1],
        "norm_num_groups": GROUPS,
        "sample_size": 512,
        "use_quant_conv": "quant_conv.weight" in found,
        "use_post_quant_conv": "post_quant_conv.weight" in found,
    }
    return config, _converted(convert_ldm_vae_checkpoint, found, config, path, "VAE")


def convert_unet(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    """The UNet of an original checkpoint (not its moving average): (UNet2DConditionModel's config, its parameters by
    diffusers' names).

    Raises: ValueError for a UNet of Stable Diffusion 2 or XL: what it predicts, or what conditions it, the file does not say.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    _refuse_other_families(tensors, path)
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET_PREFIX)}
    config = _unet_config({name.removeprefix(UNET_PREFIX): tensor for name, tensor in found.items()}, path)
    return config, _converted(convert_ldm_unet_checkpoint, found, config, path, "UNet")


def encode_empty_prompt(tensors: Tensors, path: Path) -> torch.Tensor | None:
    """The checkpoint's own text encoder's output for "", [1,77,D] float32; None where it carries no CLIP text encoder.

    Its tokenizer is not in the file: the empty prompt is the start token, then the end token to the full length, which are
    the last two of the vocabulary. Raises: ValueError for a text encoder that is not whole.
    """
    if TEXT_MARK not in tensors:
        return None
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    found = convert_ldm_clip_checkpoint({name: tensor for name, tensor in tensors.items() if name.startswith(TEXT_PREFIX)})
    # a buffer of old versions of transformers
    found = {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}
    vocabulary, width = found["text_model.embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_shape(found, "text_model.encoder.layers.0.mlp.fc1.weight", path)[0],
        num_hidden_layers=_count(found, "text_model.encoder.layers.{}.mlp.fc1.weight"),
        num_attention_heads=max(1, width // TEXT_HEAD_WIDTH),
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    encoder = CLIPTextModel(config)
    if not hasattr(encoder, "text_model"):  # transformers took that level out of the names
        found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    encoder = load_strictly(lambda: encoder, found, path).eval().float()
    ids = torch.tensor([[vocabulary - 2] + [vocabulary - 1] * (PROMPT_LENGTH - 1)])
    with torch.no_grad():
        return encoder(ids).last_hidden_state


def _unet_config(found: Tensors, path: Path) -> dict[str, Any]:
    """Walk the input blocks: a residual block each, with or without attention, until a downsampling ends the level."""
    levels: list[list[bool]] = [[]]
    widths: list[int] = []
    for block in range(1, _count(found, "input_blocks.{}.0.", whole=False)):
        if f"input_blocks.{block}.0.op.weight" in found:
            levels.append([])
            continue
        width = _shape(found, f"input_blocks.{block}.0.in_layers.2.weight", path)[0]
        levels[-1].append(f"input_blocks.{block}.1.norm.weight" in found)
        if len(widths) < len(levels):
            widths.append(width)
    context = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    projection = found.get("middle_block.1.proj_in.weight")
    regular = len({len(level) for level in levels}) == 1 and all(len(set(level)) == 1 for level in levels)
    if not regular or context not in found or projection is None or projection.ndim != 4:
        raise ValueError(
            f"UNet in {path} must be of Stable Diffusion 1.x's kind, got another one (Stable Diffusion 2 for instance). "
            "Pass its diffusers folder instead, which says what it predicts."
        )
    attends = [level[0] for level in levels]
    return {
        "in_channels": found["input_blocks.0.0.weight"].shape[1],
        "out_channels": _shape(found, "out.2.weight", path)[0],
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": found[context].shape[1],
        "attention_head_dim": HEADS,
        "norm_num_groups": GROUPS,
        "sample_size": 64,
    }


def _converted(convert: Callable, found: Tensors, config: dict[str, Any], path: Path, what: str) -> Tensors:
    """Diffusers' conversion drops what it does not know: a parameter lost on the way is another architecture's."""
    converted = convert(found, config)
    if len(converted) != len(found):
        known = {tensor.data_ptr() for tensor in converted.values()}
        lost = sorted(name for name, tensor in found.items() if tensor.data_ptr() not in known)
        raise ValueError(
            f"{what} in {path} must be of Stable Diffusion 1.x's kind, got {len(found) - len(converted)} parameters besides, such as "
            f"{lost[0] if lost else '?'}. Pass its diffusers folder instead."
        )
    return converted


def _refuse_other_families(tensors: Tensors, path: Path) -> None:
    if any(name.startswith(OTHER_FAMILIES) for name in tensors):
        raise ValueError(
            f"{path} must be a Stable Diffusion 1.x checkpoint, got one of Stable Diffusion XL's kind, whose latents are others. "
            "Pass an SD 1.x model."
        )


def _shape(tensors: Tensors, name: str, path: Path) -> torch.Size:
    if name not in tensors:
        raise ValueError(f"{path} must hold {name}, got a checkpoint without it. It is incomplete: copy or download it again.")
    return tensors[name].shape


def _count(tensors: Tensors, pattern: str, whole: bool = True) -> int:
    """How many names, or beginnings of names, there are of `pattern`, numbered from 0."""
    number = 0
    while pattern.format(number) in tensors if whole else any(name.startswith(pattern.format(number)) for name in tensors):
        number += 1
    return number
