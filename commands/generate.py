"""diffharmony generate: composites of real photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .generation_options import ListArgument, RecipeOptions, check_options, recipe_of


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


def run_generate(config: GenerateConfig) -> dict[str, Any]:
    """Run `diffharmony generate`. Returns: what --json prints."""
    from ..dataset.pairs import DirectoryIndex
    from ..inverse.generate import Wanted, make_candidates
    from ..inverse.sources import folder_sources, list_path, listed_sources, only_named

    check_options(config)
    if config.list is None:
        sources = folder_sources(config.data, DirectoryIndex())[: config.limit]
    else:
        sources, _ = listed_sources(config.data, list_path(config.data, config.list), DirectoryIndex(), config.limit)
    wanted = [Wanted(source, range(1, config.candidates + 1)) for source in sources]
    if config.only:
        wanted = [Wanted(source, ks) for source, ks in only_named(config.only, sources)]
    made = make_candidates(config.data, config.out, wanted, recipe_of(config), on_bad_image=config.on_bad_image)
    return {
        "command": "generate", "out": str(config.out), "pairs": len(wanted), "wanted": sum(len(item.ks) for item in wanted),
        "made": made.made, "found": made.found, "candidates": made.listed, "bad_images": made.bad,
    }  # fmt: skip
