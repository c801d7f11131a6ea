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
    refuse_mislabelled,
    write_checkpoint,
)
from .model import HarmonyVAE

STABLE_DIFFUSION_WIDTHS = (128, 256, 512, 512)
HARMONY_VAE = "a Harmony-VAE (encoder.*, decoder.*, conditional_encoder.*, latent_skip_conv.*)"
PLAIN_VAE = "a plain VAE in diffusers' layout (no conditional_encoder.*, no latent_skip_conv.*)"
# DirectoryIndex of an archive or pipeline that hold its VAE, the Harmony-VAE first.
VAE_FOLDERS = ("condition_vae", "vae")
CLASS_NAMES = ("HarmonyVAE", "ConditionVAE", "AutoencoderKL")  # ours, the authors', diffusers' plain one
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
    _write(vae, path, kind="harmony_vae", direction=direction, dtype=dtype, training=training)


def save_autoencoder(
    vae: AutoencoderKL, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write a plain AutoencoderKL as one `.safetensors` file of kind `autoencoder`. Raises as `save_harmony_vae` does."""
    _write(vae, path, kind="autoencoder", direction="harmonize", dtype=dtype, training=training)


def load_harmony_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyVAE:
    """Load a Harmony-VAE: one `.safetensors` file, or a diffusers folder (`.safetensors` or `.bin`), ours or the authors'.

    A folder that holds a `condition_vae/` folder (the authors' archive) or a `vae/` folder (a pipeline) stands for that one.
    Kind and layout are read from keys and metadata, never from the file's name. The model comes in `dtype`, in eval mode, on
    the CPU; its `direction` (`harmonize` or `invert`) is an attribute.
    Raises: FileNotFoundError when path or weights are missing; ValueError for a damaged file, or one that is something
    else (what was expected, what was found, what to do). Source: SPEC §10.
    """
    checkpoint, config = open_model(Path(path), "VAE", VAE_FOLDERS)
    if not _holds_conditional_encoder(checkpoint):
        _refuse(checkpoint)
    return _load(HarmonyVAE, checkpoint, config, dtype)


def load_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load a Harmony-VAE or a plain AutoencoderKL, whichever the file or diffusers folder holds; a Stable Diffusion 1.x
    checkpoint in the original key layout, or a VAE alone in it, gives a plain one. Raises as `load_harmony_vae` does."""
    checkpoint, config = open_model(Path(path), "VAE", VAE_FOLDERS)
    if _holds_conditional_encoder(checkpoint):
        return _load(HarmonyVAE, checkpoint, config, dtype)
    if sd_checkpoint.holds_vae(checkpoint.tensors):
        config, tensors = sd_checkpoint.convert_vae(checkpoint.tensors, checkpoint.path)
        return _load(AutoencoderKL, replace(checkpoint, tensors=tensors), config, dtype)
    if not holds_vae(checkpoint):
        _refuse(checkpoint, "a VAE, plain or Harmony-VAE, in diffusers' or the original layout")
    return _load(AutoencoderKL, checkpoint, config, dtype)


def state_with_metadata(vae: HarmonyVAE) -> dict[str, torch.Tensor]:
    """The state dict and, as one tensor more, what `load_harmony_vae` needs to know of it: for a host that saves it by itself."""
    metadata = describe("harmony_vae", getattr(vae, "direction", "harmonize"), _config(vae))
    return {**vae.state_dict(), METADATA_TENSOR: metadata_tensor(metadata)}


def _write(
    model: AutoencoderKL, path: str | os.PathLike, *, kind: str, direction: str, dtype: torch.dtype, training: dict[str, Any] | None
) -> None:
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}. Pass one of these.")
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    write_checkpoint(path, tensors, kind=kind, config=_config(model), direction=direction, training=training)


def _config(model: AutoencoderKL) -> dict[str, Any]:
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def infer_config(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The config of a file that comes without one: Stable Diffusion's, when the widths are its own.

    Raises: ValueError for any other widths, since shapes do not show the number of normalisation groups.
    """
    widths = []
    while (name := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in tensors:
        widths.append(tensors[name].shape[0])
    if tuple(widths) != STABLE_DIFFUSION_WIDTHS:
        raise ValueError(
            f"{path} must come with its config (in its metadata, or config.json beside it) unless its widths are Stable Diffusion's "
            f"{STABLE_DIFFUSION_WIDTHS}, got none and widths {tuple(widths)}. Pass the diffusers folder, or save it with save_harmony_vae."
        )
    return {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "sample_size": 512,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def holds_vae(checkpoint: Checkpoint) -> bool:
    """Whether these are a VAE's tensors by diffusers' names, plain or Harmony-VAE."""
    return any(name.startswith("encoder.down_blocks.") for name in checkpoint.tensors)


def _holds_conditional_encoder(checkpoint: Checkpoint) -> bool:
    return any(name.startswith("conditional_encoder.") for name in checkpoint.tensors)


def _refuse(checkpoint: Checkpoint, wanted: str = HARMONY_VAE) -> None:
    names = checkpoint.tensors.keys()
    if holds_vae(checkpoint):
        found = PLAIN_VAE
        action = "Train a Harmony-VAE from it with `diffharmony train-vae`, or load it as a plain VAE."
    elif any(name.startswith(("first_stage_model.", "encoder.down.")) for name in names):
        found = "a VAE or checkpoint in the original Stable Diffusion layout"
        action = "Pass the Harmony-VAE's own file or the authors' condition_vae folder."
    elif any(name.startswith(("down_blocks.", "time_embedding.")) for name in names):
        found = "a UNet"
        action = "Pass it to the UNet loader, and a Harmony-VAE here."
    else:
        found = f"{len(names)} tensors such as {', '.join(sorted(names)[:3])}"
        action = "Pass a file written by `diffharmony train-vae` or `convert`, or the authors' condition_vae folder."
    if checkpoint.kind == "harmony_vae" or (checkpoint.kind == "autoencoder" and not holds_vae(checkpoint)):
        refuse_mislabelled(checkpoint, found)
    raise ValueError(f"{checkpoint.path} must be {wanted}, got {found}. {action}")


def _load(cls: type[AutoencoderKL], checkpoint: Checkpoint, config: dict[str, Any] | None, dtype: torch.dtype) -> Any:
    kind, what = ("harmony_vae", "a Harmony-VAE") if cls is HarmonyVAE else ("autoencoder", PLAIN_VAE)
    if checkpoint.kind not in (None, kind):
        refuse_mislabelled(checkpoint, what)
    tensors = _with_current_names(checkpoint.tensors)
    config = config or checkpoint.config or infer_config(tensors, checkpoint.path)
    fields = inspect.signature(cls.__init__).parameters
    known = {name: value for name, value in config.items() if name in fields}
    model = load_strictly(lambda: cls(**known), tensors, checkpoint.path)
    model.direction = checkpoint.direction or "harmonize"
    if model.direction not in ("harmonize", "invert"):
        raise ValueError(f"direction of a VAE must be harmonize or invert, got {model.direction!r} in {checkpoint.path}. Write the file again.")
    # nn.Module.to: diffusers' own warns of a list of float32 modules that is empty here
    return torch.nn.Module.to(model, dtype).eval()


def _with_current_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the attention parameters of old diffusers files (query, key, value, proj_attn), which SD 1.5's own VAE has."""
    renamed = {}
    for name, tensor in tensors.items():
        head, _, parameter = name.rpartition(".")
        owner, _, last = head.rpartition(".")
        if ".attentions." in name and last in DEPRECATED_ATTENTION_NAMES:
            name = f"{owner}.{DEPRECATED_ATTENTION_NAMES[last]}.{parameter}"
            if tensor.ndim == 4:
                tensor = tensor[:, :, 0, 0]
        renamed[name] = tensor
    return renamed
