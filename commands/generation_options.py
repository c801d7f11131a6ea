"""The options that `generate`, `augment` and `human-harmony` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..common.assets import TINY

ListArgument = Annotated[str, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class RecipeOptions:
    """What each command is told of how candidates are made."""

    data: Path
    """Data set in iHarmony4's layout. Its real images and masks are all that is needed of it."""
    out: Path
    """Folder to write to, made where missing. A run that was killed goes on where it was when started again."""
    vae: Path = TINY / "inverse_harmony_vae.safetensors"
    """Inverse Harmony-VAE: our single file, a diffusers folder, or on the Hub owner/name@revision:file. The default is a tiny
    model for trying out."""
    unet: Path = TINY / "inverse_unet.safetensors"
    """Inverse UNet: as --vae. The default is a tiny model for trying out."""
    candidates: int = 10
    """Candidates per pair of a real image and a mask, K."""
    steps: int = 5
    """Sampling steps."""
    seed: int = 0
    """Base seed: candidate k of a pair is drawn from a seed made of this, the names of image and mask, and k."""
    size: int | Literal["native"] | None = None
    """Longer side to work at, in pixels (512 or 1024 for full-size models); "native" is the image's own; by default the best that the
    UNet was trained at, or native, but at most 1024, where its file does not say. Candidates always have the real image's own size."""
    suffix: Literal[".png", ".jpg"] = ".png"
    """Kind of the candidates' files. Only a .png keeps the background exactly."""
    device: str = "auto"
    """Where to compute: auto (a GPU where there is one; with `accelerate launch`, each process its own), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision to compute in."""
    threads: int = 1
    """CPU threads of each process. Another number rounds sums differently and counts as another setting; for more speed start more
    processes."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do about an image that is missing, damaged, of another size than its mask, or whose mask is empty or a picture."""
    limit: int | None = None
    """Only the first so many pairs."""
    json: bool = False
    """Print one JSON object as the last line."""


def check_options(config: RecipeOptions) -> None:
    """Raises: ValueError for numbers below 1."""
    for name in ("candidates", "steps", "threads", "limit"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Give a larger number.")


def recipe_of(config: RecipeOptions):
    """The recipe that the options say, its models on this machine.

    Raises: ValueError for a device that this machine does not have; as `common.weights.hub.fetch`.
    """
    from ..common.devices import find_device
    from ..common.processes import processes
    from ..common.weights.hub import local_path
    from ..common.weights.layout import UNET, VAE
    from ..inverse.settings import Recipe

    device = find_device(config.device, processes().device)
    fields = ("steps", "seed", "size", "suffix", "dtype", "threads")
    models = {"vae": local_path(config.vae, VAE), "unet": local_path(config.unet, UNET)}
    return Recipe(**models, **{name: getattr(config, name) for name in fields}, device=device)
