"""Refinement files: our single file, the authors' `refinement/` folder, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..common.checkpoint import Checkpoint, load_strictly, open_model, require_kind, size_along, write_checkpoint
from ..common.weights import layout
from .model import STAGE_SIZE, HarmonyRefinement

KIND = "refinement"
WANTED = "a refinement model (conv_in.*, down_blocks.*, mid_block.*, up_blocks.*, conv_norm_out.*, conv_out.*, and no time embedding)"
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
TAKE_THESE = "Pass the authors' refinement folder, or a file of `diffharmony train-refinement`."


def save_refinement(
    model: HarmonyRefinement, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write our single `.safetensors` file, whole or not at all.

    dtype: float16 or float32. training: a JSON-able summary of how the weights came to be.
    Raises: ValueError for another model, dtype or suffix; FileNotFoundError when the folder does not exist.
    """
    if not isinstance(model, HarmonyRefinement):
        raise ValueError(f"model must be a HarmonyRefinement, got {type(model).__name__}. Load one with load_refinement.")
    write_checkpoint(path, model.state_dict(), kind=KIND, config=model.config, dtype=dtype, training=training)


def load_refinement(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyRefinement:
    """Load a refinement model: one `.safetensors` file, a diffusers folder (`.safetensors` or `.bin`), ours or the authors', or a model on
    the Hub (`common.weights.hub`).

    A folder that holds a `refinement/` folder (the authors' archive) stands for that one; a file named as in such a folder takes
    the config.json beside it. Kind and layout are read from keys and metadata, never from the file's name. The model comes in
    `dtype`, in eval mode, on the CPU.
    Raises: FileNotFoundError when path or weights are missing; ValueError for a damaged file, or one that is something else
    (what was expected, what was found, what to do). Source: SPEC §10.
    """
    checkpoint, config = open_model(path, layout.REFINEMENT)
    require_kind(checkpoint, (KIND,), WANTED, TAKE_THESE)
    config = config or checkpoint.config or infer_config(checkpoint)
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    return load_strictly(lambda: HarmonyRefinement(**fields), checkpoint.tensors, checkpoint.path, dtype)


def infer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a file that comes without one: the authors', when the widths are of one of theirs.

    Raises: ValueError for any other widths, since shapes do not show normalisation, padding or the residual.
    """
    tensors, widths = checkpoint.tensors, []
    while (name := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in tensors:
        widths.append(size_along(tensors, name, 0, checkpoint.path))
    if tuple(widths) not in PUBLISHED_WIDTHS:
        raise ValueError(
            f"{checkpoint.path} must come with its config (in its metadata, or config.json beside it) unless its widths are one of the "
            f"authors' {PUBLISHED_WIDTHS}, got none and widths {tuple(widths)}. Pass the diffusers folder, or save it with save_refinement."
        )
    return {**PUBLISHED, "block_out_channels": widths, "in_channels": size_along(tensors, "conv_in.weight", 1, checkpoint.path)}
