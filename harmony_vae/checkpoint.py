"""Harmony-VAE files: our single file, the authors' `condition_vae/` folder, and what is refused."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .model import HarmonyVAE

FOLDER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DEPRECATED_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def save_harmony_vae(
    vae: HarmonyVAE,
    path: str | os.PathLike,
    *,
    direction: str = "harmonize",
    dtype: torch.dtype = torch.float16,
    training: dict[str, Any] | None = None,
) -> None:
    """Write our single `.safetensors` file, whole or not at all.

    dtype: float16 or float32. training: a JSON-able summary of how the weights came to be.
    Raises: ValueError for another dtype, direction or suffix; FileNotFoundError when the folder does not exist.
    """
    write_model(vae, path, kind="harmony_vae", direction=direction, dtype=dtype, training=training)


def save_autoencoder(
    vae: AutoencoderKL, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write a plain AutoencoderKL as one `.safetensors` file of kind `autoencoder`. Raises as `save_harmony_vae` does."""
    write_model(vae, path, kind="autoencoder", direction="harmonize", dtype=dtype, training=training)


def load_harmony_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyVAE:
    """Load a Harmony-VAE: one `.safetensors` file, or a diffusers folder (`.safetensors` or `.bin`), ours or the authors'.

    A folder that holds a `condition_vae/` folder (the authors' archive) stands for that one. Kind and layout are read from
    keys and metadata, never from the file's name. The model comes in `dtype`, in eval mode, on the CPU; its `direction`
    (`harmonize` or `invert`) is an attribute.
    Raises: FileNotFoundError when path or weights are missing; ValueError for a damaged file, or one that is something
    else (what was expected, what was found, what to do). Source: SPEC §10.
    """
    checkpoint, config = _open(Path(path))
    if not _holds_conditional_encoder(checkpoint):
        _refuse(checkpoint)
    return _load(HarmonyVAE, checkpoint, config, dtype)


def load_vae(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load a Harmony-VAE or a plain AutoencoderKL, whichever the file or diffusers folder holds. Raises as `load_harmony_vae` does."""
    checkpoint, config = _open(Path(path))
    if _holds_conditional_encoder(checkpoint):
        return _load(HarmonyVAE, checkpoint, config, dtype)
    if not _holds_encoder(checkpoint):
        _refuse(checkpoint)
    return _load(AutoencoderKL, checkpoint, config, dtype)


def write_model(
    model: AutoencoderKL, path: str | os.PathLike, *, kind: str, direction: str, dtype: torch.dtype, training: dict[str, Any] | None
) -> None:
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}. Pass one of these.")
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    write_checkpoint(path, tensors, kind=kind, config=config, direction=direction, training=training)


def infer_config(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """AutoencoderKL's config read off parameter names and shapes; what shapes do not show is as in Stable Diffusion 1.x."""
    levels = _count(tensors, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    if not levels:
        raise ValueError("weights must hold encoder.down_blocks.*, got none. Pass a VAE in diffusers' layout.")
    layers = _count(tensors, "encoder.down_blocks.0.resnets.{}.conv1.weight")
    widths = [tensors[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    config: dict[str, Any] = {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in tensors,
    }
    if "conditional_encoder.add_conv_in.weight" in tensors:
        config["additional_in_channels"] = tensors["conditional_encoder.add_conv_in.weight"].shape[1]
    return config


def _open(path: Path) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The weights and, for a folder or a diffusers file in one, the config beside them."""
    if path.is_dir():
        if not (path / "config.json").is_file() and (path / "condition_vae" / "config.json").is_file():
            path = path / "condition_vae"
        weights = next((path / name for name in FOLDER_WEIGHTS if (path / name).is_file()), None)
        if weights is None or not (path / "config.json").is_file():
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"VAE folder must hold config.json and {' or '.join(FOLDER_WEIGHTS)}, looked in {path.resolve()} and found "
                f"{found}. Pass the folder that holds both."
            )
        return read_checkpoint(weights), _read_config(path / "config.json")
    checkpoint = read_checkpoint(path)
    beside = path.parent / "config.json"
    if checkpoint.config is None and path.name in FOLDER_WEIGHTS and beside.is_file():
        return checkpoint, _read_config(beside)
    return checkpoint, None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be JSON, got something else ({error}). Copy the folder again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}. Copy the folder again.")
    return config


def _holds_conditional_encoder(checkpoint: Checkpoint) -> bool:
    return any(name.startswith("conditional_encoder.") for name in checkpoint.tensors)


def _holds_encoder(checkpoint: Checkpoint) -> bool:
    return any(name.startswith("encoder.down_blocks.") for name in checkpoint.tensors)


def _refuse(checkpoint: Checkpoint) -> None:
    names = checkpoint.tensors.keys()
    if _holds_encoder(checkpoint):
        found = "a plain VAE in diffusers' layout (no conditional_encoder.*, no latent_skip_conv.*)"
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
    raise ValueError(
        f"{checkpoint.path} must be a Harmony-VAE (encoder.*, decoder.*, conditional_encoder.*, latent_skip_conv.*), got {found}. {action}"
    )


def _load(cls: type[AutoencoderKL], checkpoint: Checkpoint, config: dict[str, Any] | None, dtype: torch.dtype) -> Any:
    tensors = _with_current_names(checkpoint.tensors)
    model = _build(cls, config or checkpoint.config or infer_config(tensors), tensors, checkpoint.path)
    model.direction = checkpoint.direction or "harmonize"
    # nn.Module.to: diffusers' own warns of a list of float32 modules that is empty here
    return torch.nn.Module.to(model, dtype).eval()


def _build(cls: type[AutoencoderKL], config: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> Any:
    fields = inspect.signature(cls.__init__).parameters
    model = cls(**{name: value for name, value in config.items() if name in fields})
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    misshapen = [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if missing or unexpected or misshapen:
        problems = []
        for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(misshapen))):
            if names:
                problems.append(f"{len(names)} {label} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})")
        raise ValueError(
            f"{path} must hold exactly the {len(expected)} tensors of a {cls.__name__} of its config, got {'; '.join(problems)}. "
            "The file is incomplete or its config is another model's: fetch or write it again."
        )
    model.load_state_dict(tensors)
    return model


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


def _count(tensors: dict[str, torch.Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in tensors:
        count += 1
    return count
