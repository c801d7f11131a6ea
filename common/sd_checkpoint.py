"""Stable Diffusion 1.x checkpoints in the original key layout: their VAE, UNet and text encoder as diffusers and transformers have them.

Diffusers' own conversion renames the parameters. All files of the family have one configuration, so that nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checkpoint import load_strictly, size_along
from .files import first_line

if TYPE_CHECKING:
    from transformers import CLIPTextConfig

Tensors = dict[str, torch.Tensor]

VAE_PREFIX = "first_stage_model."
UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.transformer."
UNET_INPUT = f"{UNET_PREFIX}input_blocks.0.0.weight"
TEXT_LEVEL = "text_model."  # transformers took it out of the names
TEXT_MARK = f"{TEXT_PREFIX}text_model.embeddings.token_embedding.weight"
# What a training run of the original code leaves in a VAE's own file.
NOT_WEIGHTS = ("loss.", "model_ema.")
OTHER_FAMILIES = "conditioner."  # SDXL: other latents and other text encoders
PROMPT_LENGTH = 77
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "sample_size": 512,
}
UNET: dict[str, Any] = {  # in_channels besides: text to image has 4, inpainting 9
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "sample_size": 64,
}
TEXT: dict[str, Any] = {  # the empty prompt's start and end tokens are the last two of the vocabulary
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip


def convert_vae(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    """The VAE of an original checkpoint: (AutoencoderKL's config, its parameters by diffusers' names).

    Raises: ValueError for SDXL's checkpoints, whose latents are scaled otherwise, and for parameters that Stable Diffusion's VAE has no
    place for.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    _refuse_other_families(tensors, path)
    prefix = VAE_PREFIX if any(name.startswith(VAE_PREFIX) for name in tensors) else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in found.items() if not name.startswith(NOT_WEIGHTS)}
    return VAE, _converted(convert_ldm_vae_checkpoint, found, VAE, path, "VAE")


def convert_unet(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    """The UNet of an original checkpoint (not its moving average): (UNet2DConditionModel's config, its parameters by
    diffusers' names).

    Raises: ValueError for parameters that Stable Diffusion 1.x's UNet has no place for. Loading refuses other shapes, of Stable
    Diffusion 2 for instance: what that predicts its file does not say.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    _refuse_other_families(tensors, path)
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET_PREFIX)}
    config = {**UNET, "in_channels": size_along(found, UNET_INPUT, 1, path) if UNET_INPUT in found else 4}
    return config, _converted(convert_ldm_unet_checkpoint, found, config, path, "UNet")


def encode_empty_prompt(tensors: Tensors, path: Path) -> torch.Tensor | None:
    """The checkpoint's own text encoder's output for "", [1,77,D] float32; None where it carries no CLIP text encoder.

    Its tokenizer is not in the file: the empty prompt is the start token, then the end token to the full length.
    Raises: ValueError for a text encoder that is not whole.
    """
    if TEXT_MARK not in tensors:
        return None
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
    from transformers import CLIPTextConfig

    found = convert_ldm_clip_checkpoint({name: tensor for name, tensor in tensors.items() if name.startswith(TEXT_PREFIX)})
    ids = torch.tensor([[TEXT["bos_token_id"]] + [TEXT["eos_token_id"]] * (PROMPT_LENGTH - 1)])
    return run_text_encoder(CLIPTextConfig(**TEXT), found, ids, path)


def run_text_encoder(config: CLIPTextConfig, tensors: dict[str, torch.Tensor], ids: torch.Tensor, path: Path) -> torch.Tensor:
    """The encoder's output for token numbers, [1,77,D] float32.

    tensors: its parameters, by transformers' old names or new; others beside the old ones, of a whole CLIP, are passed over. ids: [1,77]
    int64. path: what errors name.
    Raises: ValueError for parameters that are missing, unexpected or of another shape, before memory of the config's size is taken, and
    for an encoder that does not take these numbers.
    """
    from transformers import CLIPTextModel

    def build() -> torch.nn.Module:
        model = CLIPTextModel(config)
        return getattr(model, TEXT_LEVEL.rstrip("."), model)

    old = any(name.startswith(TEXT_LEVEL) for name in tensors)
    found = {name.removeprefix(TEXT_LEVEL): tensor for name, tensor in tensors.items() if name.startswith(TEXT_LEVEL) or not old}
    # a buffer of old versions of transformers
    found = {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}
    encoder = load_strictly(build, found, path, torch.float32)
    try:
        with torch.no_grad():
            return encoder(ids).last_hidden_state
    except Exception as error:  # whatever PyTorch and transformers stumble over
        raise ValueError(
            f"{path} must be a text encoder that takes the tokens of its own tokenizer, got one that does not "
            f"({type(error).__name__}: {first_line(error)}). Copy both again."
        ) from error


def _converted(convert: Callable, found: Tensors, config: dict[str, Any], path: Path, what: str) -> Tensors:
    """Diffusers' conversion drops what it does not know: a parameter lost on the way is another architecture's."""
    try:
        converted = convert(found, config)
    except Exception as error:  # diffusers looks for parameters by name, and cuts them as if they had their shapes
        raise ValueError(
            f"{what} in {path} must be whole, got one that diffusers cannot convert ({type(error).__name__}: {first_line(error)}). Copy it again."
        ) from error
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
