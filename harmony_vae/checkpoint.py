"""Harmony-VAE files: our single file, the authors' `condition_vae/` folder, and what is refused."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..common import sd_checkpoint
from ..common.checkpoint import (
    METADATA_TENSOR,
    Checkpoint,
    describe,
    load_strictly,
    metadata_tensor,
    open_model,
    require_kind,
    size_along,
    write_checkpoint,
)
from ..common.direction import check_direction
from ..common.weights import layout
from .model import HarmonyVAE

HARMONY_VAE = "a Harmony-VAE (encoder.*, decoder.*, conditional_encoder.*, latent_skip_conv.*)"
TAKE_THESE = (
    "Pass a file of `diffharmony train-vae`, which makes a Harmony-VAE of a plain one, or of `convert`, or the authors' condition_vae folder."
)
ANY_VAE = "a VAE, plain or Harmony-VAE, in diffusers' or the original layout"
ORIGINAL = ("original_vae", "stable_diffusion")
DEPRECATED_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def save_harmony_vae(
    vae: HarmonyVAE,
    path: str | os.PathLike,
    *,
    direction: str | None = None,
    dtype: torch.dtype = torch.float16,
    training: dict[str, Any] | None = None,
) -> None:
    """Write our single `.safetensors` file, whole or not at all.

    direction: `harmonize` or `invert`; None keeps the model's own, `harmonize` where it has none. dtype: float16 or float32.
    training: a JSON-able summary of how the weights came to be.
    Raises: ValueError for a plain VAE, another dtype, direction or suffix; FileNotFoundError when the folder does not exist.
    """
    if not isinstance(vae, HarmonyVAE):
        raise ValueError(f"vae must be a HarmonyVAE, got {type(vae).__name__}. Make one with HarmonyVAE.from_autoencoder_kl.")
    direction = direction or getattr(vae, "direction", "harmonize")
    write_checkpoint(
        path, vae.state_dict(), kind="harmony_vae", config=vae.config, direction=direction, dtype=dtype, training=training
    )


def save_autoencoder(
    vae: AutoencoderKL, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write a plain AutoencoderKL as one `.safetensors` file of kind `autoencoder`. Raises as `save_harmony_vae` does."""
    write_checkpoint(path, vae.state_dict(), kind="autoencoder", config=vae.config, dtype=dtype, training=training)


def load_harmony_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyVAE:
    """Load a Harmony-VAE: one `.safetensors` file, a diffusers folder (`.safetensors` or `.bin`), ours or the authors', or a model on the
    Hub (`common.weights.hub`).

    A folder that holds a `condition_vae/` folder (the authors' archive) or a `vae/` folder (a pipeline) stands for that one.
    Kind and layout are read from keys and metadata, never from the file's name. The model comes in `dtype`, in eval mode, on
    the CPU; its `direction` (`harmonize` or `invert`) is an attribute.
    Raises: FileNotFoundError when path or weights are missing; ValueError for a damaged file, or one that is something
    else (what was expected, what was found, what to do). Source: SPEC §10.
    """
    checkpoint, config = open_model(path, layout.VAE)
    require_kind(checkpoint, ("harmony_vae",), HARMONY_VAE, TAKE_THESE)
    return _load(HarmonyVAE, checkpoint, config, dtype)


def load_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load a Harmony-VAE or a plain AutoencoderKL, whichever the file or diffusers folder holds; a Stable Diffusion 1.x
    checkpoint in the original key layout, or a VAE alone in it, gives a plain one. Raises as `load_harmony_vae` does."""
    checkpoint, config = open_model(path, layout.VAE)
    kind = require_kind(checkpoint, ("harmony_vae", "autoencoder", *ORIGINAL), ANY_VAE, TAKE_THESE)
    if kind in ORIGINAL:
        config, tensors = sd_checkpoint.convert_vae(checkpoint.tensors, checkpoint.path)
        checkpoint = replace(checkpoint, tensors=tensors)
    return _load(HarmonyVAE if kind == "harmony_vae" else AutoencoderKL, checkpoint, config, dtype)


def state_with_metadata(vae: HarmonyVAE) -> dict[str, torch.Tensor]:
    """The state dict and, as one tensor more, what `load_harmony_vae` needs to know of it: for a host that saves it by itself."""
    metadata = describe("harmony_vae", getattr(vae, "direction", "harmonize"), vae.config)
    return {**vae.state_dict(), METADATA_TENSOR: metadata_tensor(metadata)}


def infer_config(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The config of a file that comes without one: Stable Diffusion's, when the widths are its own.

    Raises: ValueError for any other widths, since shapes do not show the number of normalisation groups.
    """
    widths = []
    while (name := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in tensors:
        widths.append(size_along(tensors, name, 0, path))
    if widths != sd_checkpoint.VAE["block_out_channels"]:
        raise ValueError(
            f"{path} must come with its config (in its metadata, or config.json beside it) unless its widths are Stable Diffusion's, "
            f"{sd_checkpoint.VAE['block_out_channels']}, got none and widths {widths}. Pass the diffusers folder, or save it with save_harmony_vae."
        )
    return {
        **sd_checkpoint.VAE,
        "latent_channels": size_along(tensors, "decoder.conv_in.weight", 1, path),
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def _load(cls: type[AutoencoderKL], checkpoint: Checkpoint, config: dict[str, Any] | None, dtype: torch.dtype) -> Any:
    tensors = _with_current_names(checkpoint.tensors)
    config = config or checkpoint.config or infer_config(tensors, checkpoint.path)
    fields = inspect.signature(cls.__init__).parameters
    known = {name: value for name, value in config.items() if name in fields}
    model = load_strictly(lambda: cls(**known), tensors, checkpoint.path, dtype)
    model.direction = checkpoint.direction or "harmonize"
    check_direction(model.direction, f"direction of {checkpoint.path}")
    return model


def _with_current_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the attention parameters of old diffusers files (query, key, value, proj_attn), which SD 1.5's own VAE has."""
    renamed = {}
    for name, tensor in tensors.items():
        head, _, parameter = name.rpartition(".")
        owner, _, last = head.rpartition(".")
        if ".attentions." in name and last in DEPRECATED_ATTENTION_NAMES:
            name = f"{owner}.{DEPRECATED_ATTENTION_NAMES[last]}.{parameter}"
            if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
                tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed
