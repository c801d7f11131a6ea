"""diffharmony harmonize: relight the foreground of a composite photograph."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..common.assets import TINY

ImageArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="COMPOSITE")]
MaskArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MASK")]


@dataclass(frozen=True)
class HarmonizeConfig:
    """Relight the foreground of a composite photograph to match its background.

    Takes harmonization models; inverse ones are refused.

    Examples:
      diffharmony harmonize composite.png mask.png --out harmonized.png
      diffharmony harmonize composite.png mask.png --out harmonized.png --vae harmony_vae.safetensors \\
          --unet harmonization_unet.safetensors --size 1024 --device cuda --dtype float16
    """

    composite: ImageArgument
    """Image file: an object pasted on a background."""
    mask: MaskArgument
    """Mask file of the same size: white is the pasted object; grey edges blend."""
    out: Path
    """Image file to write (.png, .jpg, .webp, .tif), with the composite's colour profile and resolution; 16-bit input becomes
    8 bits per channel, and transparency is dropped. An existing file is replaced."""
    vae: Path = TINY / "harmony_vae.safetensors"
    """Harmony-VAE: our single file, or a diffusers folder. The default is a tiny model for trying out."""
    unet: Path = TINY / "harmonization_unet.safetensors"
    """Harmonization UNet: our single file, or a diffusers folder. The default is a tiny model for trying out."""
    steps: int | None = None
    """Sampling steps. Without it: what the UNet's file says for --detail transfer, else 5."""
    seed: int = 0
    """Seed of the noise."""
    size: int | Literal["native", "auto"] = "auto"
    """Longer side to work at, in pixels (512 or 1024 for full-size models); "native" is the image's own; "auto" the best that the UNet was
    trained at, or native, but at most 1024, where its file does not say. The result always has the image's own size."""
    paste_background: bool = True
    """Lay the relit foreground over the composite, whose background stays exactly as it was."""
    plain: bool = False
    """Decode plainly, without the composite as condition; a plain VAE will do."""
    detail: Literal["transfer", "change", "decoded"] | None = None
    """How the result comes to the image's size: "transfer" gives the composite's own pixels the light that the model found, whatever the
    size; "change" enlarges the model's change; "decoded" the model's picture, as the paper does. Without it: "transfer"."""
    keep_detail: bool = True
    """--no-keep-detail is the former name of --detail decoded."""
    strength: float = 1.0
    """How much of the change, 0 to 2; 0 gives the composite."""
    tile: int | None = None
    """Decode in tiles of this many pixels, for large images on small machines. Encoding and sampling still take the whole
    image: lower --size for those."""
    refinement: Path | None = None
    """Refinement model to run on the decoded image: our single file, or the authors' folder."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision to compute in."""
    json: bool = False
    """Print one JSON object as the last line."""


def run_harmonize(config: HarmonizeConfig) -> dict[str, Any]:
    """Run `diffharmony harmonize`. Returns: what --json prints."""
    import torch
    from tqdm import tqdm

    from ..common.devices import find_device
    from ..common.images import check_image_path, image_info, load_image, load_mask, save_image
    from ..diffusion.inference import chosen_detail, default_steps, harmonize, working_size
    from ..diffusion.unet import load_unet
    from ..harmony_vae import load_harmony_vae, load_vae
    from ..refinement import load_refinement

    check_image_path(config.out)
    inputs = (config.composite, config.mask, config.vae, config.unet, config.refinement)
    _refuse_overwriting(config.out, tuple(path for path in inputs if path is not None))
    composite, mask = load_image(config.composite), load_mask(config.mask)
    device, dtype = find_device(config.device), getattr(torch, config.dtype)
    _say(f"Loading {config.vae}")
    vae = (load_vae if config.plain else load_harmony_vae)(config.vae, dtype).to(device)
    _say(f"Loading {config.unet}")
    unet = load_unet(config.unet, dtype=dtype).to(device)
    if unet.direction != "harmonize":
        raise ValueError(f"{config.unet} must be a UNet of direction 'harmonize', got {unet.direction!r}. Pass a harmonization UNet.")
    detail = chosen_detail(config.detail, None if config.keep_detail else False)
    steps = config.steps or default_steps(unet, detail)
    refinement = None
    if config.refinement is not None:
        _say(f"Loading {config.refinement}")
        refinement = load_refinement(config.refinement, dtype).to(device)
    with tqdm(total=steps, desc="Sampling", file=sys.stderr) as bar:
        harmonized = harmonize(
            vae,
            unet,
            composite,
            mask,
            steps,
            config.seed,
            size=config.size,
            paste_background=config.paste_background,
            conditional=not config.plain,
            detail=detail,
            strength=config.strength,
            tile=config.tile,
            refinement=refinement,
            progress=lambda done, total: bar.update(),
        )
    save_image(harmonized, config.out, image_info(config.composite))
    _say(f"Wrote {config.out}")
    height, width = composite.shape[-2:]
    return {
        "command": "harmonize",
        "out": str(config.out),
        "width": width,
        "height": height,
        "working_size": list(working_size(height, width, config.size, unet.sizes))[::-1],
        "foreground": round((mask >= 0.5).float().mean().item(), 6),
        "steps": steps,
        "seed": config.seed,
        "conditional": not config.plain,
        "detail": detail,
        "strength": config.strength,
        "refinement": None if config.refinement is None else str(config.refinement),
        "paste_background": config.paste_background,
        "direction": unet.direction,
        "device": str(device),
        "dtype": config.dtype,
    }


def _refuse_overwriting(out: Path, inputs: tuple[Path, ...]) -> None:
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"--out must be another file than the inputs, got {out}. Choose another name.")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
