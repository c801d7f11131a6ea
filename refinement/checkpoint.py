"""Refinement files: our single file, the authors' `refinement/` folder, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..common.checkpoint import Checkpoint, load_strictly, open_model, write_checkpoint
from .model import STAGE_SIZE, HarmonyRefinement

KIND = "refinement"
WANTED = "a refinement model (conv_in.*, down_blocks.*, mid_block.*, up_blocks.*, conv_norm_out.*, conv_out.*, and no time embedding)"
ARCHIVE_FOLDER = "refinement"
CLASS_NAMES = ("HarmonyRefinement", "UNet2DCustom")  # ours, the authors'
# The authors' three configs; they differ in nothing but the widths.
PUBLISHED_WIDTHS = ((64, 128, 256, 256), (128, 256, 512, 512), (256, 512, 1024, 1024))
PUBLISHED = {
    "sample_size": STAGE_SIZE,
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "add_attention": True,
    "input_residual": True,
}
TAKE_THESE = f"Pass the authors' {ARCHIVE_FOLDER} folder, or a file of `diffharmony train-refinement`."
# Of another kind: what its parameter names begin with, what it is, and what to do.
OTHERS = (
    (("conditional_encoder.",), "a Harmony-VAE", "Pass it as the VAE, and a refinement file here."),
    (("encoder.", "decoder.", "first_stage_model."), "a VAE", "Pass it as the VAE, and a refinement file here."),
    (("model.diffusion_model.",), "a Stable Diffusion checkpoint", TAKE_THESE),
    (("time_embedding.",), "a UNet with a time embedding", "Pass it as the UNet, and a refinement file here."),
    (("fc.", "layer1."), "a classifier", TAKE_THESE),
)


def save_refinement(
    model: HarmonyRefinement, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write our single `.safetensors` file, whole or not at all.

    dtype: float16 or float32. training: a JSON-able summary of how the weights came to be.
    Raises: ValueError for another model, dtype or suffix; FileNotFoundError when the folder does not exist.
    """
    if not isinstance(model, HarmonyRefinement):
        raise ValueError(f"model must be a HarmonyRefinement, got {type(model).__name__}. Load one with load_refinement.")
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}. Pass one of these.")
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    write_checkpoint(path, tensors, kind=KIND, config=config, training=training)


def load_refinement(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyRefinement:
    """Load a refinement model: one `.safetensors` file, or a diffusers folder (`.safetensors` or `.bin`), ours or the authors'.

    A folder that holds a `refinement/` folder (the authors' archive) stands for that one; a file named as in such a folder takes
    the config.json beside it. Kind and layout are read from keys and metadata, never from the file's name. The model comes in
    `dtype`, in eval mode, on the CPU.
    Raises: FileNotFoundError when path or weights are missing; ValueError for a damaged file, or one that is something else
    (what was expected, what was found, what to do). Source: SPEC §10.
    """
    checkpoint, config = open_model(Path(path), "refinement", (ARCHIVE_FOLDER,))
    if config is not None:
        _check_config(config, checkpoint.path.with_name("config.json"))
    if checkpoint.kind not in (None, KIND):
        _refuse(checkpoint, f"a file of kind {checkpoint.kind!r}")
    if not holds_refinement(checkpoint):
        _refuse(checkpoint)
    config = config or checkpoint.config or infer_config(checkpoint)
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    model = load_strictly(lambda: HarmonyRefinement(**fields), checkpoint.tensors, checkpoint.path)
    # nn.Module.to: diffusers' own warns of a list of float32 modules that is empty here
    return torch.nn.Module.to(model, dtype).eval()


def infer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a file that comes without one: the authors', when the widths are of one of theirs.

    Raises: ValueError for any other widths, since shapes do not show normalisation, padding or the residual.
    """
    tensors, widths = checkpoint.tensors, []
    while (name := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in tensors:
        widths.append(tensors[name].shape[0])
    if tuple(widths) not in PUBLISHED_WIDTHS:
        raise ValueError(
            f"{checkpoint.path} must come with its config (in its metadata, or config.json beside it) unless its widths are one of the "
            f"authors' {PUBLISHED_WIDTHS}, got none and widths {tuple(widths)}. Pass the diffusers folder, or save it with save_refinement."
        )
    return {**PUBLISHED, "block_out_channels": widths, "in_channels": tensors["conv_in.weight"].shape[1]}


def _check_config(config: dict[str, Any], path: Path) -> None:
    class_name = config.get("_class_name", CLASS_NAMES[0])
    if class_name not in CLASS_NAMES:
        raise ValueError(
            f"{path} must be the config of {WANTED}, class {' or '.join(CLASS_NAMES)}, got class {class_name}. {TAKE_THESE}"
        )


def holds_refinement(checkpoint: Checkpoint) -> bool:
    """Whether these are a refinement model's tensors."""
    names = checkpoint.tensors.keys()
    needed = {"conv_in.weight", "conv_norm_out.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv1.weight"}
    return needed <= names and not any(name.startswith("time_embedding.") or ".time_emb_proj." in name for name in names)


def _refuse(checkpoint: Checkpoint, found: str | None = None) -> None:
    names = sorted(checkpoint.tensors)
    other = next((other for other in OTHERS if any(name.startswith(other[0]) for name in names)), None)
    if other is not None:
        found, action = f"{other[1]}{f' ({found})' if found else ''}", other[2]
    else:
        found = found or f"{len(names)} tensors such as {', '.join(names[:3])}"
        action = TAKE_THESE
    raise ValueError(f"{checkpoint.path} must be {WANTED}, got {found}. {action}")
