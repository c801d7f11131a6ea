"""The commands `generate` and `augment`: options, and what they print. Heavy imports wait until one runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..common.tiny_family import TINY

ListArgument = Annotated[str, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class RecipeOptions:
    """What each command is told of how candidates are made."""

    data: Path
    """Data set in iHarmony4's layout. Its real images and masks are all that is needed of it."""
    out: Path
    """Folder to write to, made where missing. A run that was killed goes on where it was when started again."""
    vae: Path = TINY / "inverse_harmony_vae.safetensors"
    """Inverse Harmony-VAE: our single file, or a diffusers folder. The default is a tiny model for trying out."""
    unet: Path = TINY / "inverse_unet.safetensors"
    """Inverse UNet: our single file, or a diffusers folder. The default is a tiny model for trying out."""
    candidates: int = 10
    """Candidates per pair of a real image and a mask, K."""
    steps: int = 5
    """Sampling steps."""
    seed: int = 0
    """Base seed: candidate k of a pair is drawn from a seed made of this, the names of image and mask, and k."""
    size: int | Literal["native"] | None = None
    """Longer side to work at, in pixels (512 or 1024 for full-size models); "native" is the image's own; by default native, but at
    most 1024. Candidates always have the real image's own size."""
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
    """What to do about an image that is missing, damaged, of another size than its mask, or whose mask is empty."""
    limit: int | None = None
    """Only the first so many pairs."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class GenerateConfig(RecipeOptions):
    """Make composites out of real photographs: K candidates for every real image and mask.

    Writes <out>/<subset>/cand_composite_images/<image>_<mask>_<k>.png, real images and masks beside them (hard links where the disk
    allows), and <out>/candidates.jsonl, one line per candidate. Candidates that are there are left: a killed run goes on, and more --candidates
    are added. Each has a seed of its own, so that it comes out the same alone, in any order and on any number of processes.

    Examples:
      diffharmony generate --data iHarmony4 --list IHD_train.txt --vae inverse_harmony_vae.safetensors --unet inverse_unet.safetensors \\
          --out candidates --size 512 --device cuda --dtype bfloat16
      accelerate launch -m diffharmony generate --data photographs --out photographs --candidates 10
      torchrun --nproc_per_node 4 -m diffharmony generate --data photographs --out candidates
      diffharmony generate --data photographs --out again --only HCOCO/cand_composite_images/a0001_1_7.png
    """

    list: ListArgument | None = None
    """List of composites (.txt or .jsonl) in the data set's folder, or a path: candidates for each distinct pair in it. Without it, for
    every mask in <subset>/masks."""
    only: tuple[str, ...] = ()
    """Make these alone: names as in candidates.jsonl, or <image>_<mask>_<k>."""


@dataclass(frozen=True)
class AugmentConfig(RecipeOptions):
    """Make a training set grow: composites of its own real images, drawn by the inverse models, in a folder to train on beside it.

    Of K candidates of each of the N1 distinct pairs of real image and mask, ceil(gamma N2 / N1) are chosen at random, N2 being the list's
    composites; only those are made. Writes them to <out>/<subset>/composite_images/<image>_<mask>_<k>.png with masks and real images,
    and the list <out>/IHD_train.txt. A killed run goes on when started again.

    Examples:
      diffharmony augment --data Hday2night --list IHD_train.txt --gamma 1 --out augmented --vae inverse_harmony_vae.safetensors \\
          --unet inverse_unet.safetensors --size 512 --device cuda
      diffharmony train-unet --data.roots Hday2night augmented --run.out out/augmented
      diffharmony augment --data iHarmony4 --gamma 0.5 --from-candidates candidates --out augmented
    """

    list: ListArgument = "IHD_train.txt"
    """List of composites (.txt or .jsonl) in the data set's folder, or a path."""
    gamma: float = 1.0
    """Composites to add, as a share of the list's (the paper's is 1)."""
    from_candidates: Path | None = None
    """Take candidates that `generate` made into this folder, instead of making them; with the settings that they were made with."""


def run_generate(config: GenerateConfig) -> dict[str, Any]:
    """Run `diffharmony generate`. Returns: what --json prints."""
    from ..train.lists import Folders
    from .generate import Wanted, make_candidates
    from .sources import folder_sources, list_path, listed_sources, only_named

    check_options(config)
    if config.list is None:
        sources = folder_sources(config.data, Folders())[: config.limit]
    else:
        sources, _ = listed_sources(config.data, list_path(config.data, config.list), Folders(), config.limit)
    wanted = [Wanted(source, range(1, config.candidates + 1)) for source in sources]
    if config.only:
        wanted = [Wanted(source, ks) for source, ks in only_named(config.only, sources)]
    made = make_candidates(config.data, config.out, wanted, recipe_of(config), on_bad_image=config.on_bad_image)
    return {
        "command": "generate", "out": str(config.out), "pairs": len(wanted), "wanted": sum(len(item.ks) for item in wanted),
        "made": made.made, "found": made.found, "candidates": len(made.entries), "bad_images": made.bad,
    }  # fmt: skip


def run_augment(config: AugmentConfig) -> dict[str, Any]:
    """Run `diffharmony augment`. Returns: what --json prints."""
    from .augmentation import augment

    check_options(config)
    recipe = None if config.from_candidates is not None else recipe_of(config)
    result = augment(
        config.data, config.list, config.out, recipe, gamma=config.gamma, candidates=config.candidates, seed=config.seed,
        from_candidates=config.from_candidates, limit=config.limit, on_bad_image=config.on_bad_image,
    )  # fmt: skip
    return {"command": "augment", "out": str(config.out), **result}


def check_options(config: RecipeOptions) -> None:
    """Raises: ValueError for numbers below 1."""
    for name in ("candidates", "steps", "threads", "limit"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Give a larger number.")


def recipe_of(config: RecipeOptions):
    """The recipe that the options say. Raises: ValueError for a device that this machine does not have."""
    from ..common.devices import find_device
    from ..train.processes import processes
    from .recipe import Recipe

    device = find_device(config.device, processes().device)
    fields = ("vae", "unet", "steps", "seed", "size", "suffix", "dtype", "threads")
    return Recipe(**{name: getattr(config, name) for name in fields}, device=device)
