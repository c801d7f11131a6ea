"""diffharmony convert: the authors' archive or diffusers folders to our files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .harmonize import _say

SourceArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]


@dataclass(frozen=True)
class ConvertConfig:
    """Turn the authors' archive, or diffusers folders, into our single files with the empty prompt baked in.

    Writes harmonization_unet.safetensors, harmony_vae.safetensors and, where the archive has it, refinement.safetensors (for inverse
    models: inverse_unet.safetensors and inverse_harmony_vae.safetensors).

    Examples:
      diffharmony convert DiffHarmony-archive --out models
      diffharmony convert DiffHarmony-archive --direction invert --out models
      diffharmony convert my-unet --text-encoder sd/text_encoder --tokenizer sd/tokenizer --out models
      diffharmony convert my-vae --direction invert --out models
      diffharmony convert owner/archive@v1 --out models
    """

    source: SourceArgument
    """The authors' archive unpacked (base/, condition_vae/, refinement/, inverse/), a diffusers pipeline folder, or the folder or file of
    a UNet, a VAE or a refinement model alone; of a Stable Diffusion 1.x checkpoint in the original layout UNet and VAE are taken. Or any
    of these on the Hub, pinned: owner/name@revision, and after a colon a folder or file in it. Parts given below may be there too."""
    out: Path
    """Folder to write to; made where missing. Existing files of those names are replaced."""
    unet: Path | None = None
    """Take the UNet from here instead."""
    vae: Path | None = None
    """Take the Harmony-VAE (or plain VAE) from here instead."""
    text_encoder: Path | None = None
    """Take the text encoder from here instead."""
    tokenizer: Path | None = None
    """Take the tokenizer from here instead."""
    direction: Literal["harmonize", "invert"] | None = None
    """What the models were trained for, and which models of the archive to take; by default what the source says of itself, or
    harmonize where it says nothing."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision of the files."""
    json: bool = False
    """Print one JSON object as the last line."""


def run_convert(config: ConvertConfig) -> dict[str, Any]:
    """Run `diffharmony convert`. Returns: what --json prints."""
    import dataclasses

    import torch

    from ..common.weights.hub import local_path
    from ..common.weights.layout import TEXT, UNET, VAE
    from ..diffusion.convert import convert_models, find_direction, find_sources

    layouts = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "tokenizer": TEXT}
    given = {name: path for name in layouts if (path := getattr(config, name)) is not None}
    sources = dataclasses.replace(find_sources(config.source, config.direction), **{name: local_path(path, layouts[name]) for name, path in given.items()})
    direction = find_direction(sources, config.direction)
    written = convert_models(sources, config.out, direction=direction, dtype=getattr(torch, config.dtype))
    for path in written.values():
        _say(f"Wrote {path}")
    return {"command": "convert", "direction": direction, "dtype": config.dtype, **{k: str(v) for k, v in written.items()}}
