"""The command `human-harmony`: options, and what it prints. Heavy imports wait until it runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..common.assets import TINY
from ..inverse.human_harmony.split import TEST_SHARE
from .generation_options import RecipeOptions, check_options, recipe_of

OnBad = Literal["stop", "skip"]


@dataclass(frozen=True)
class HumanHarmonyConfig(RecipeOptions):
    """Build a data set like Human Harmony: composites of photographs of people, in iHarmony4's layout, ready to train on.

    Takes imaterialist-fashion-2020-fgvc7's train.csv and image folder: the foreground is the union of all outlines of a photograph. Or
    any folder of photographs with one of masks, <name>.png or <name>_<m>.png. Makes --candidates of each with the inverse models, keeps
    the one that the classifier finds most unharmonious, and splits the photographs by iHarmony4's ratio, 65,742 : 7,404 (of 29,106
    photographs that is 26,160 : 2,946; the paper prints 26,157 : 2,946, which is 3 short).

    The paper drops photographs that show products only, by a rule that it does not state. --keep-list, --require-classes, --drop-classes,
    --min-classes, --min-share and --max-share are rules to choose from; what each drops is counted.

    Damaged rows are left out, the photograph is built from its other rows, and damage.jsonl names each by its line. A killed run goes on
    where it was when started again; `accelerate launch` shares the candidates among processes.

    Examples:
      diffharmony human-harmony --csv train.csv --photos train --out human_harmony --dry-run
      accelerate launch -m diffharmony human-harmony --csv train.csv --photos train --out human_harmony --size 512 --dtype bfloat16 \\
          --vae inverse_harmony_vae.safetensors --unet inverse_unet.safetensors --classifier model_state_dict.pth \\
          --min-share 0.05 --min-classes 2 --iharmony4 iHarmony4
      diffharmony human-harmony --photos portraits --masks outlines --out portraits_harmony --subset Portraits
    """

    data: Annotated[Path, tyro.conf.arg(name="photos")]
    """Folder of photographs, .jpg, .jpeg or .png; ImageId is a file's name without its suffix."""
    csv: Path | None = None
    """Table with the columns ImageId, EncodedPixels, Height, Width, in any order, others too; ClassId where a rule asks for classes."""
    masks: Path | None = None
    """Instead of --csv: folder of masks, white on black."""
    subset: str = "HumanHarmony"
    """Name of the folder in --out that images lie in."""
    keep_list: Path | None = None
    """Keep only the photographs that this file names, one a line."""
    require_classes: tuple[int, ...] = ()
    """Keep photographs that show at least one of these ClassIds."""
    drop_classes: tuple[int, ...] = ()
    """Drop photographs that show any of these ClassIds."""
    min_classes: int = 1
    """Drop photographs that show fewer different ClassIds."""
    min_share: float = 0.0
    """Drop masks whose foreground is less of the image, 0 to 1."""
    max_share: float = 1.0
    """Drop masks whose foreground is more of the image, 0 to 1."""
    classifier: Path = TINY / "harmony_classifier.safetensors"
    """Harmony classifier: our file, the authors' model_state_dict.pth, or on the Hub owner/name@revision:file. The default is a tiny
    model for trying out."""
    min_distance: float = 0.0
    """Reject candidates that changed less: mean squared difference from the photograph inside the mask, of 0..255."""
    max_distance: float | None = None
    """Reject candidates that changed more, as broken."""
    max_score: float | None = None
    """Reject candidates of a higher unharmonious probability, as broken."""
    test_share: float = TEST_SHARE
    """Share of the photographs in IHD_test.txt, chosen by --seed and their names alone; by default iHarmony4's."""
    iharmony4: Path | None = None
    """Data set in iHarmony4's layout whose foreground shares figure2.png shows beside."""
    on_bad_row: OnBad = "skip"
    """What to do about a damaged row of the CSV: leave it out and report it, or stop."""
    on_bad_image: OnBad = "skip"
    """What to do about a photograph or mask that is absent, damaged, or of another size: leave it out and report it, or stop."""
    report: Path | None = None
    """Write the problems here instead of <out>/damage.jsonl. The only file that --dry-run writes."""
    batch_size: int = 32
    """Images that the classifier sees at once."""
    workers: int = 2
    """Threads that write masks and read candidates."""
    dry_run: bool = False
    """Read and check everything, print the plan, and write nothing."""


def run_human_harmony(config: HumanHarmonyConfig) -> dict[str, Any]:
    """Run `diffharmony human-harmony`. Returns: what --json prints. Raises: as build_data_set(); ValueError where nothing is left to take."""
    from ..inverse.human_harmony.dry_run import nothing_left
    from ..inverse.selection import check_limits

    check_options(config)
    if (config.csv is None) == (config.masks is None):
        raise ValueError(f"source of masks must be one of --csv and --masks, got {'none' if config.csv is None else 'both'}. Pass one.")
    for name in ("batch_size", "workers"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}. Raise it.")
    check_limits(1, config.min_distance, config.max_distance, config.max_score)
    result = _plan(config) if config.dry_run else _build(config)
    if os.environ.get("RANK", "0") == "0":
        print(summary(result), file=sys.stderr if config.json else sys.stdout, flush=True)
        if not result["kept"]:
            raise ValueError(nothing_left(result["photographs"], result["dropped"]))
    return {"command": "human-harmony", "out": str(config.out), "dry_run": config.dry_run, **result}


def _plan(config: HumanHarmonyConfig) -> dict[str, Any]:
    from ..common.weights.hub import local_path
    from ..common.weights.layout import CLASSIFIER, UNET, VAE
    from ..inverse.human_harmony.dry_run import plan_data_set

    if os.environ.get("RANK", "0") != "0":
        return {}
    layouts = {"harmony_vae": VAE, "unet": UNET, "classifier": CLASSIFIER}
    models = {kind: local_path(path, layouts[kind]) for kind, path in zip(layouts, (config.vae, config.unet, config.classifier))}
    return plan_data_set(
        _input(config), config.candidates, models=models, seed=config.seed, test_share=config.test_share, report=config.report
    )  # fmt: skip


def _build(config: HumanHarmonyConfig) -> dict[str, Any]:
    from ..inverse.human_harmony.build import BuildOptions, build_data_set
    from ..inverse.select_folder import Limits

    limits = Limits(1, config.min_distance, config.max_distance, config.max_score)
    options = BuildOptions(
        recipe_of(config), config.candidates, config.classifier, limits, config.test_share, config.iharmony4, config.batch_size,
        config.workers,
    )  # fmt: skip
    return build_data_set(_input(config), options, config.out, subset=config.subset, report=config.report)


def _input(config: HumanHarmonyConfig):
    from ..inverse.human_harmony.dry_run import InputSpec
    from ..inverse.human_harmony.filters import Filters, read_keep_list

    keep = None if config.keep_list is None else read_keep_list(config.keep_list)
    filters = Filters(
        keep, frozenset(config.require_classes), frozenset(config.drop_classes), config.min_classes, config.min_share, config.max_share
    )  # fmt: skip
    return InputSpec(config.data, config.csv, config.masks, filters, config.on_bad_row, config.on_bad_image, config.limit)


def summary(result: dict[str, Any]) -> str:
    """Lines for people."""
    rows = f", {result['rows']} rows ({result['damaged_rows']} damaged)" if result["rows"] else ""
    lines = [f"{result['kept']} of {result['photographs']} photographs kept{rows}"]
    lines += [f"  dropped: {count} ({reason})" for reason, count in result["dropped"].items()]
    lines += [f"  damaged: {count} ({kind})" for kind, count in result["damage"].items()]
    if result["keep_list_absent"]:
        lines.append(f"  of the keep list, not there: {result['keep_list_absent']}")
    if "to_make" in result:
        lines += [f"  {'line ' + str(one['line']) if one['line'] else one['name']}: {one['message']}" for one in result["first_damage"]]
        lines.append(f"would make {result['to_make']} candidates of {result['pairs']} masks")
        lines.append(f"photographs: {result['train']} to train on, {result['test']} for tests")
        return "\n".join(lines)
    lines += [f"  rejected: {count} candidates ({reason})" for reason, count in result["selection"]["rejected"].items() if count]
    for file, count in result["composites_listed"].items():
        lines.append(f"{file}: {count} composites of {result['photographs_listed'][file]} photographs")
    share = result["foreground_share"]
    for name, above in share["above"].items():
        lines.append(f"foreground above {share['threshold']:g} of the image: {above:.1%} of {name} (paper: {share['paper'][name]})")
    return "\n".join(lines)
