"""The 9-channel UNet of both directions: loading, checking, saving (SPEC §2, §4)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..common import sd_checkpoint
from ..common.checkpoint import PROMPT_KEY, Checkpoint, load_strictly, open_model, read_checkpoint, require_kind, write_checkpoint
from ..common.direction import check_direction
from ..common.files import parse_json, read_json
from ..common.sd_checkpoint import PROMPT_LENGTH
from ..common.weights.layout import PROMPT_FILE, SCHEDULER_FILE, UNET
from .calibration import Calibration
from .empty_prompt import empty_prompt_beside


KIND = "unet"
ORIGINAL = ("original_unet", "stable_diffusion")
WANTED = f"a UNet (diffharmony.kind = {KIND!r}, a diffusers folder, or a Stable Diffusion 1.x checkpoint)"
TAKE_THESE = "Pass a file written by diffharmony train-unet or diffharmony convert."
IN_CHANNELS = 9
NARROW_CHANNELS = 4  # a text-to-image UNet's
OUT_CHANNELS = 4
PREDICTION_TYPES = ("epsilon", "v_prediction")
HOW_TO_BAKE = "Bake it in with: diffharmony convert FOLDER --text-encoder FOLDER --tokenizer FOLDER --out FOLDER."


def load_unet(
    path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, in_channels: int = IN_CHANNELS, prompt: bool = True
) -> UNet2DConditionModel:
    """Load the harmonization or inverse UNet, in evaluation mode, on the CPU.

    path: our single file, a Stable Diffusion 1.x checkpoint in the original key layout, a diffusers folder (config.json +
    .safetensors or .bin, sharded or not), a pipeline folder with `unet/`, the authors' archive, or a model on the Hub
    (`common.weights.hub`). dtype: float32, float16 or bfloat16. in_channels: 9; 4 takes a text-to-image UNet, to be widened with
    `widen_input`, and no other. prompt: compute the empty prompt where a folder has it not, and the text encoder lies beside it.
    Returns: a diffusers UNet2DConditionModel with `.empty_prompt_embeds` ([1, 77, D] float32, or None where there is neither it
    nor a text encoder, in an original checkpoint or beside a folder), `.direction` ("harmonize" | "invert"),
    `.prediction_type` ("epsilon" | "v_prediction"), `.sizes` (the working sizes it was trained at, the best first; () where
    unknown), `.steps` (the sampling steps that transfer light best, or None) and `.calibration` (a Calibration, or None).
    Raises: FileNotFoundError for a missing file or folder; ValueError for another kind of model, a damaged or incomplete
    file, or another number of input channels.
    Source: SPEC §2 (architecture), DESIGN.md "Contracts" (files).
    """
    checkpoint, config = open_model(path, UNET)
    path, tensors, embeds = checkpoint.path, checkpoint.tensors, None
    kind = require_kind(checkpoint, (KIND, *ORIGINAL), WANTED, TAKE_THESE)
    direction, prediction_type, metadata = checkpoint.direction, checkpoint.prediction_type, checkpoint.metadata
    if kind in ORIGINAL:
        config, tensors = sd_checkpoint.convert_unet(tensors, path)
        embeds = sd_checkpoint.encode_empty_prompt(checkpoint.tensors, path)
    elif config is not None:
        ours, prediction_type = _beside(path.parent)
        if ours is not None:
            embeds, direction, prediction_type, metadata = ours.tensors.get(PROMPT_KEY), ours.direction, ours.prediction_type, ours.metadata
        elif prompt:
            embeds = empty_prompt_beside(path.parent)
    elif checkpoint.config is None:
        raise ValueError(
            f"{path} must carry its config in its metadata, got none. Pass its diffusers folder (with config.json) instead, or write our "
            "file with diffharmony convert."
        )
    else:
        config, tensors = checkpoint.config, dict(tensors)
        embeds = tensors.pop(PROMPT_KEY, None)
        if embeds is None:
            raise ValueError(f"{path} must hold the tensor {PROMPT_KEY!r}, got none. {HOW_TO_BAKE}")
    # 4 is diffusers' default for both
    check_channels(config.get("in_channels", 4), config.get("out_channels", 4), str(path), in_channels)
    unet = load_strictly(lambda: UNet2DConditionModel.from_config(config), tensors, path, dtype)
    return attach(unet, embeds, direction, prediction_type, metadata).requires_grad_(False)


def widen_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a 4-channel UNet, in place, the 9 input channels [noisy latent 4, mask 1, condition latent 4], the new ones with
    zero weights, so that mask and condition change nothing until it is trained. Returns the same UNet.

    Raises: ValueError for a UNet with another number of channels. Source: SPEC §2.
    """
    check_channels(unet.config.in_channels, unet.config.out_channels, wanted=NARROW_CHANNELS)
    narrow = unet.conv_in
    wide = torch.nn.Conv2d(IN_CHANNELS, narrow.out_channels, narrow.kernel_size, padding=narrow.padding)
    wide.to(device=narrow.weight.device, dtype=narrow.weight.dtype).requires_grad_(narrow.weight.requires_grad)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, :NARROW_CHANNELS] = narrow.weight
        wide.bias.copy_(narrow.bias)
    unet.conv_in = wide
    unet.register_to_config(in_channels=IN_CHANNELS)
    return unet


def save_unet(
    unet: UNet2DConditionModel,
    path: str | os.PathLike,
    *,
    empty_prompt_embeds: torch.Tensor | None = None,
    direction: str | None = None,
    prediction_type: str | None = None,
    dtype: torch.dtype = torch.float16,
    training: dict[str, Any] | None = None,
    sizes: Sequence[int] | None = None,
    steps: int | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Write a UNet as one .safetensors file that `load_unet` and the nodes load, whole or not at all.

    empty_prompt_embeds: [1, 77, D] or [77, D]. direction, prediction_type, sizes, steps, calibration: as in `load_unet`. None takes the
    UNet's own attribute for each; without one, "harmonize", "epsilon" and nothing. dtype: float16 or float32 (of the file).
    training: a JSON-able summary kept in the metadata.
    Raises: ValueError for a UNet without 9 input channels, a missing or misshapen embedding, or an unknown option.
    Source: DESIGN.md "Contracts".
    """
    check_channels(unet.config.in_channels, unet.config.out_channels, str(path))
    direction = direction or getattr(unet, "direction", "harmonize")
    prediction_type = prediction_type or getattr(unet, "prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {prediction_type!r}. Pass one of these.")
    if empty_prompt_embeds is None:
        empty_prompt_embeds = getattr(unet, PROMPT_KEY, None)
    if empty_prompt_embeds is None:
        raise ValueError(f"empty_prompt_embeds must be given, got None for a UNet that has none. {HOW_TO_BAKE}")
    write_checkpoint(
        path,
        {**unet.state_dict(), PROMPT_KEY: check_empty_prompt(empty_prompt_embeds, unet)},
        kind=KIND,
        config=unet.config,
        direction=direction,
        prediction_type=prediction_type,
        dtype=dtype,
        training=training,
        extra=_measured_metadata(unet, sizes, steps, calibration),
    )


def check_channels(in_channels: int, out_channels: int, name: str = "unet", wanted: int = IN_CHANNELS) -> None:
    """Refuse channel numbers that are not the harmonization UNet's, 9 in and 4 out, or with `wanted` 4 not a text-to-image UNet's.

    Raises: ValueError naming the rule, what was found and what to do.
    Source: SPEC §2.
    """
    if (in_channels, out_channels) == (wanted, OUT_CHANNELS):
        return
    if wanted == NARROW_CHANNELS:
        raise ValueError(
            f"UNet {name} must have {NARROW_CHANNELS} input and {OUT_CHANNELS} output channels to be widened to {IN_CHANNELS}, "
            f"got {in_channels} and {out_channels}. Leave --widen-input out, or take a text-to-image UNet."
        )
    hint = "Take a harmonization UNet."
    if in_channels == NARROW_CHANNELS:
        hint = "This is a text-to-image UNet; take the inpainting one, or train from this one with train-unet --widen-input."
    raise ValueError(
        f"UNet {name} must have {IN_CHANNELS} input channels (noisy latent 4, mask 1, condition latent 4) and "
        f"{OUT_CHANNELS} output channels, got {in_channels} and {out_channels}. {hint}"
    )


def check_empty_prompt(embeds: torch.Tensor, unet: UNet2DConditionModel) -> torch.Tensor:
    """Check an empty-prompt embedding against the UNet's cross-attention width.

    embeds: [1, 77, D] or [77, D], floating. Returns: [1, 77, D] float32 on the CPU.
    Raises: ValueError for another shape or width.
    """
    embeds = embeds.detach().to(device="cpu", dtype=torch.float32)
    embeds = embeds[None] if embeds.ndim == 2 else embeds
    width = unet.config.cross_attention_dim
    if tuple(embeds.shape) != (1, PROMPT_LENGTH, width):
        raise ValueError(
            f"empty_prompt_embeds must have shape [1, {PROMPT_LENGTH}, {width}] (the UNet's cross-attention width), "
            f"got {list(embeds.shape)}. Use the text encoder that the UNet was trained with."
        )
    return embeds


def empty_prompt_of(unet: UNet2DConditionModel, name: str = "UNet") -> torch.Tensor:
    """The empty-prompt embedding that a UNet carries: [1, 77, D] float32 on the CPU. Raises: ValueError for none, or as above."""
    embeds = getattr(unet, PROMPT_KEY, None)
    if embeds is None:
        raise ValueError(f"{name} must carry an empty-prompt embedding to be sampled, got none. {HOW_TO_BAKE}")
    return check_empty_prompt(embeds, unet)


def attach(
    unet: UNet2DConditionModel, embeds: torch.Tensor | None, direction: str | None, prediction_type: str | None,
    metadata: dict[str, str] | None = None,
) -> UNet2DConditionModel:  # fmt: skip
    """Set `.empty_prompt_embeds`, `.direction` and `.prediction_type`, checked; None takes the SD defaults. From a file's metadata
    `.sizes`, `.steps` and `.calibration`; (), None and None where it has none."""
    direction = direction or "harmonize"
    prediction_type = prediction_type or "epsilon"
    check_direction(direction, "direction of a UNet")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type of a UNet must be one of {PREDICTION_TYPES}, got {prediction_type!r}. "
            "Another kind of prediction cannot be sampled here."
        )
    unet.empty_prompt_embeds = None if embeds is None else check_empty_prompt(embeds, unet)
    unet.direction = direction
    unet.prediction_type = prediction_type
    metadata = metadata or {}
    unet.sizes = _whole_numbers(metadata.get("diffharmony.sizes", "[]"), "sizes")
    unet.steps = next(iter(_whole_numbers(f"[{metadata.get('diffharmony.steps', '')}]", "steps")), None)
    calibration = metadata.get("diffharmony.calibration")
    unet.calibration = None if calibration is None else Calibration.from_json(calibration)
    return unet


def _whole_numbers(text: str, name: str) -> tuple[int, ...]:
    try:
        numbers = parse_json(text)
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(f"{name} of a UNet must be whole numbers above 0, as JSON, got {text[:80]!r}. Write the file again.")
    return tuple(numbers)


def _measured_metadata(
    unet: UNet2DConditionModel, sizes: Sequence[int] | None = None, steps: int | None = None, calibration: Calibration | None = None
) -> dict[str, str]:
    """What a file says of how the UNet is best used; what is not given is the UNet's own."""
    sizes = getattr(unet, "sizes", ()) if sizes is None else sizes
    steps, calibration = steps or getattr(unet, "steps", None), calibration or getattr(unet, "calibration", None)
    found = {"sizes": json.dumps(list(_whole_numbers(json.dumps(list(sizes)), "sizes")))} if sizes else {}
    found |= {"steps": json.dumps(_whole_numbers(json.dumps([steps]), "steps")[0])} if steps else {}
    return found | ({} if calibration is None else {"calibration": calibration.to_json()})


def write_prompt_file(folder: str | os.PathLike, unet: UNet2DConditionModel) -> None:
    """Write what a diffusers folder has no place for (embedding, direction, prediction type) beside its config.json.

    A UNet without an embedding writes nothing: its prediction type is in the pipeline's scheduler.
    """
    embeds = getattr(unet, PROMPT_KEY, None)
    if embeds is None:
        return
    write_checkpoint(
        Path(folder) / PROMPT_FILE,
        {PROMPT_KEY: check_empty_prompt(embeds, unet)},
        kind=KIND,
        config=unet.config,
        direction=getattr(unet, "direction", "harmonize"),
        prediction_type=getattr(unet, "prediction_type", "epsilon"),
        extra=_measured_metadata(unet),
    )


def _beside(folder: Path) -> tuple[Checkpoint | None, str | None]:
    """What a diffusers folder's weights do not say: our own file beside them, or without one the prediction type of the pipeline's scheduler."""
    if (folder / PROMPT_FILE).is_file():
        return read_checkpoint(folder / PROMPT_FILE), None
    settings = folder.parent / SCHEDULER_FILE
    return None, read_json(settings).get("prediction_type") if settings.is_file() else None
