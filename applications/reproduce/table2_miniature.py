"""Table 2 in miniature: UNets trained from scratch on a small set, and on that set with what the inverse model makes of it.

The small set has N1 pairs of a real image and a mask, and two composites of each. Every UNet is trained for as many steps on as many
images per step. As in the paper, the inverse pair has seen more photographs than the small set holds; the harmonization UNets have not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ...dataset.layout import TRAIN_LIST
from ...dataset.pairs import DirectoryIndex
from ...inverse.augmentation import augment
from ...inverse.generate import Wanted, make_candidates
from ...inverse.settings import Recipe
from ...inverse.sources import list_path, listed_sources
from ...synthetic.dataset import write_training_set
from ...train import unet as train_unet
from ...train.config import DataConfig, RunConfig
from .paper import GAMMAS, augmented_unet
from .trainings import Training

logger = logging.getLogger("diffharmony")
SIZE = 128
CANDIDATES = 4  # per pair, from which γ = 2 takes all


@dataclass(frozen=True)
class Small:
    """How much is done for each seed."""

    pairs: int = 60
    """N1: crops of training photographs, a mask and two composites each."""
    steps: int = 1200
    """Optimizer steps of each UNet."""
    batch_size: int = 16


def augmented_trainings(small: Small, work: Path, seed: int, tiny: dict[str, Path]) -> list[Training]:
    """One training on the small set alone and one for each γ, once their data are made; what is there already is gone on with."""
    folder = work / f"table2-{small.pairs}-seed{seed}"
    base = folder / "base"
    write_training_set(base, photo_crops=small.pairs, scenes=0, composites_per_crop=1, changes_per_mask=2, size=SIZE, seed=100 + seed)
    sources, _ = listed_sources(base, list_path(base, TRAIN_LIST), DirectoryIndex())
    wanted = [Wanted(source, range(1, CANDIDATES + 1)) for source in sources]
    recipe = Recipe(tiny["inverse_harmony_vae"], tiny["inverse_unet"], seed=seed)
    make_candidates(base, folder / "candidates", wanted, recipe)
    roots = {augmented_unet(None): (base,)}
    for gamma in GAMMAS:
        added = folder / f"gamma-{gamma}"
        counts = augment(base, TRAIN_LIST, added, None, gamma=gamma, candidates=CANDIDATES, seed=seed, from_candidates=folder / "candidates")
        logger.info("table2, seed %d, gamma %s: %d composites and %d generated", seed, gamma, counts["composites"], counts["total"])
        roots[augmented_unet(gamma)] = (base, added)
    return [Training(name, seed, train_unet.main, _config(small, folder / name, seed, paths, tiny["vae"])) for name, paths in roots.items()]


def _config(small: Small, out: Path, seed: int, roots: tuple[Path, ...], vae: Path) -> train_unet.UNetTraining:
    preset = train_unet.PRESETS["tiny"][1]
    return replace(
        preset,
        vae=vae,
        data=DataConfig(roots=roots, size=SIZE, min_crop=0.5, workers=0),
        optim=replace(preset.optim, batch_size=small.batch_size, steps=small.steps),
        run=RunConfig(out=out.parent / f"{out.name}-{small.steps}", seed=seed, save_every=200, sample_every=small.steps, tracker="none"),
        cached_views=4,
    )
