"""diffharmony augment: a training set grown by composites of its own photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .generation_options import ListArgument, RecipeOptions, check_options, recipe_of


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


def run_augment(config: AugmentConfig) -> dict[str, Any]:
    """Run `diffharmony augment`. Returns: what --json prints."""
    from ..inverse.augmentation import augment

    check_options(config)
    recipe = None if config.from_candidates is not None else recipe_of(config)
    result = augment(
        config.data, config.list, config.out, recipe, gamma=config.gamma, candidates=config.candidates, seed=config.seed,
        from_candidates=config.from_candidates, limit=config.limit, on_bad_image=config.on_bad_image,
    )  # fmt: skip
    return {"command": "augment", "out": str(config.out), **result}
