"""The 9-channel UNet of both directions: loading, checking, saving (SPEC §2, §4)."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..common import sd_checkpoint
from ..common.checkpoint import DIRECTIONS, Checkpoint, load_strictly, read_checkpoint, refuse_mislabelled, write_checkpoint
from ..common.files import read_json

logger = logging.getLogger("diffharmony")

KIND = "unet"
IN_CHANNELS = 9
NARROW_CHANNELS = 4  # a text-to-image UNet's
OUT_CHANNELS = 4
PROMPT_LENGTH = 77
PREDICTION_TYPES = ("epsilon", "v_prediction")
PROMPT_KEY = "empty_prompt_embeds"
# beside config.json in a diffusers folder that we wrote: the embedding, direction and prediction type
PROMPT_FILE = "empty_prompt_embeds.safetensors"
HOW_TO_BAKE = "Bake it in with: diffharmony convert FOLDER --text-encoder FOLDER --tokenizer FOLDER --out FOLDER"


def load_unet(
    path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, in_channels: int = IN_CHANNELS
) -> UNet2DConditionModel:
    """Load the harmonization or inverse UNet, in evaluation mode, on the CPU.

    path: our single file, a Stable Diffusion 1.x checkpoint in the original key layout, a diffusers folder (config.json +
    .safetensors or .bin, sharded or not), or a pipeline folder with `unet/`. dtype: float32, float16 or bfloat16.
    in_channels: 9; 4 takes a text-to-image UNet, to be widened with `widen_input`, and no other.
    Returns: a diffusers UNet2DConditionModel with `.empty_prompt_embeds` ([1, 77, D] float32, or None where the folder
    or file has neither it nor, in an original checkpoint, a text encoder), `.direction` ("harmonize" | "invert") and
    `.prediction_type` ("epsilon" | "v_prediction").
    Raises: FileNotFoundError for a missing file or folder; ValueError for another kind of model, a damaged or incomplete
    file, or another number of input channels.
    Source: SPEC §2 (architecture), DESIGN.md "Contracts" (files).
    """
    path = Path(path)
    if path.is_dir():
        unet = _load_folder(path, dtype, in_channels)
    else:
        unet = _load_file(path, dtype, in_channels)
    return unet.eval().requires_grad_(False)


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
) -> None:
    """Write a UNet as one .safetensors file that `load_unet` and the nodes load, whole or not at all.

    empty_prompt_embeds: [1, 77, D] or [77, D]. direction, prediction_type: as in `load_unet`. None takes the UNet's own attribute
    for each; without one, "harmonize" and "epsilon". dtype: float16 or float32 (of the file).
    training: a JSON-able summary kept in the metadata.
    Raises: ValueError for a UNet without 9 input channels, a missing or misshapen embedding, or an unknown option.
    Source: DESIGN.md "Contracts".
    """
    check_channels(unet.config.in_channels, unet.config.out_channels, str(path))
    direction = direction or getattr(unet, "direction", "harmonize")
    prediction_type = prediction_type or getattr(unet, "prediction_type", "epsilon")
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"dtype of a checkpoint must be torch.float16 or torch.float32, got {dtype}. Pass one of these.")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {prediction_type!r}. Pass one of these.")
    if empty_prompt_embeds is None:
        empty_prompt_embeds = getattr(unet, PROMPT_KEY, None)
    if empty_prompt_embeds is None:
        raise ValueError(f"empty_prompt_embeds must be given, got None for a UNet that has none. {HOW_TO_BAKE}")
    embeds = check_empty_prompt(empty_prompt_embeds, unet)
    tensors = {name: tensor.to(dtype) for name, tensor in unet.state_dict().items()}
    tensors[PROMPT_KEY] = embeds.to(dtype)
    write_checkpoint(
        path,
        tensors,
        kind=KIND,
        config=public_config(unet),
        direction=direction,
        prediction_type=prediction_type,
        training=training,
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


def public_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The UNet's diffusers configuration as JSON-able fields, without diffusers' private ones."""
    config = json.loads(unet.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_")}


def attach(
    unet: UNet2DConditionModel, embeds: torch.Tensor | None, direction: str | None, prediction_type: str | None
) -> UNet2DConditionModel:
    """Set `.empty_prompt_embeds`, `.direction` and `.prediction_type`, checked; None takes the SD defaults."""
    direction = direction or "harmonize"
    prediction_type = prediction_type or "epsilon"
    if direction not in DIRECTIONS:
        raise ValueError(f"direction of a UNet must be one of {DIRECTIONS}, got {direction!r}. Write the file again.")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type of a UNet must be one of {PREDICTION_TYPES}, got {prediction_type!r}. "
            "Another kind of prediction cannot be sampled here."
        )
    unet.empty_prompt_embeds = None if embeds is None else check_empty_prompt(embeds, unet)
    unet.direction = direction
    unet.prediction_type = prediction_type
    return unet


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
        config=public_config(unet),
        direction=getattr(unet, "direction", "harmonize"),
        prediction_type=getattr(unet, "prediction_type", "epsilon"),
    )


def _load_file(path: Path, dtype: torch.dtype, in_channels: int) -> UNet2DConditionModel:
    checkpoint = read_checkpoint(path)
    if sd_checkpoint.holds_unet(checkpoint.tensors):
        config, tensors = sd_checkpoint.convert_unet(checkpoint.tensors, path)
        _check_config_channels(config, path, in_channels)
        unet = load_strictly(lambda: UNet2DConditionModel.from_config(config), tensors, path)
        return attach(torch.nn.Module.to(unet, dtype), sd_checkpoint.encode_empty_prompt(checkpoint.tensors, path), None, None)
    if checkpoint.kind != KIND:
        raise ValueError(f"{path} must be a UNet (diffharmony.kind = {KIND!r}), got {_describe(checkpoint)}. {_advice(checkpoint)}")
    if not holds_unet(checkpoint):
        refuse_mislabelled(checkpoint, _listed(checkpoint))
    if checkpoint.config is None:
        raise ValueError(f"{path} must carry its configuration in the metadata, got none. Write it again with diffharmony convert.")
    tensors = dict(checkpoint.tensors)
    embeds = tensors.pop(PROMPT_KEY, None)
    if embeds is None:
        raise ValueError(f"{path} must hold the tensor {PROMPT_KEY!r}, got none. {HOW_TO_BAKE}")
    _check_config_channels(checkpoint.config, path, in_channels)
    unet = load_strictly(lambda: UNet2DConditionModel.from_config(checkpoint.config), tensors, path)
    # nn.Module.to: diffusers' own warns of a list of float32 modules that is empty here
    return attach(torch.nn.Module.to(unet, dtype), embeds, checkpoint.direction, checkpoint.prediction_type)


def _load_folder(path: Path, dtype: torch.dtype, in_channels: int) -> UNet2DConditionModel:
    if not (path / "config.json").is_file() and (path / "unet").is_dir():
        return _with_scheduler_setting(_load_folder(path / "unet", dtype, in_channels), path)
    config = read_json(path / "config.json")
    class_name = config.get("_class_name", "UNet2DConditionModel")
    if class_name != "UNet2DConditionModel":
        raise ValueError(
            f"{path} must be a diffusers folder of UNet2DConditionModel, got {class_name}. Pass the folder `unet/` of a pipeline."
        )
    _check_config_channels(config, path, in_channels)
    unet = _from_pretrained(path, dtype)
    prompt_file = path / PROMPT_FILE
    if prompt_file.is_file():
        checkpoint = read_checkpoint(prompt_file)
        return attach(unet, checkpoint.tensors.get(PROMPT_KEY), checkpoint.direction, checkpoint.prediction_type)
    return _with_scheduler_setting(attach(unet, None, None, None), path.parent)


def _with_scheduler_setting(unet: UNet2DConditionModel, pipeline_folder: Path) -> UNet2DConditionModel:
    """Take the prediction type from the pipeline's scheduler, where our own file did not say it."""
    settings = pipeline_folder / "scheduler" / "scheduler_config.json"
    if unet.empty_prompt_embeds is None and settings.is_file():
        attach(unet, None, unet.direction, read_json(settings).get("prediction_type"))
    return unet


def _from_pretrained(path: Path, dtype: torch.dtype) -> UNet2DConditionModel:
    names = {file.name for file in path.iterdir()}
    weights = sorted(name for name in names if name.startswith("diffusion_pytorch_model"))
    if not weights:
        raise FileNotFoundError(
            f"diffusion_pytorch_model.safetensors or .bin must exist, looked in {path.resolve()}, which holds "
            f"{', '.join(sorted(names)) or 'nothing'}. Pass a complete diffusers folder."
        )
    # a folder may carry half-precision files only: diffusers finds them when told
    plain = [name for name in weights if ".fp16" not in name]
    variant = None if plain else "fp16"
    safe = any(".safetensors" in name for name in plain or weights)
    try:
        unet, info = UNet2DConditionModel.from_pretrained(
            path,
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=safe,
            variant=variant,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} must be a whole diffusers UNet folder, but diffusers could not load it ({_first_line(error)}). "
            "Copy or download it again."
        ) from error
    for what in ("missing_keys", "unexpected_keys"):
        if info.get(what):
            names = sorted(info[what])
            raise ValueError(
                f"{path} must hold exactly the UNet's parameters, got {len(names)} {what.split('_')[0]} (first: {names[0]}). "
                "Copy or download it again."
            )
    return unet


def _check_config_channels(config: dict[str, Any], path: Path, wanted: int) -> None:
    """Refuse by configuration, before gigabytes are read. 4 is diffusers' default for both."""
    check_channels(config.get("in_channels", 4), config.get("out_channels", 4), str(path), wanted)


def holds_unet(checkpoint: Checkpoint) -> bool:
    """Whether these are a UNet's tensors by diffusers' names."""
    return {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"} <= checkpoint.tensors.keys()


def _describe(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.kind!r}" if checkpoint.kind is not None else f"a file without that metadata holding {_listed(checkpoint)}"


def _listed(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint.tensors)
    return f"{len(names)} tensors ({', '.join(names[:3])}, ...)"


def _advice(checkpoint: Checkpoint) -> str:
    if checkpoint.kind in ("harmony_vae", "autoencoder"):
        return "It is a VAE: pass it as the VAE, and a UNet file here."
    if checkpoint.kind is None and "conv_in.weight" in checkpoint.tensors and "conv_out.weight" in checkpoint.tensors:
        return "Pass its diffusers folder (with config.json) instead, or write our file with diffharmony convert."
    if sd_checkpoint.holds_vae(checkpoint.tensors):
        return "It is a VAE in the original layout: pass it as the VAE, and a UNet file here."
    return "Pass a file written by diffharmony train-unet or diffharmony convert."


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
