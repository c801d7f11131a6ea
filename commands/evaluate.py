"""The command `evaluate`: options, and what it prints. Heavy imports wait until it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

NAMES_SHOWN = 20


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure folders of harmonized images: PSNR, MSE, fMSE, bMSE overall, by subset and by foreground range.

    A prediction bears its composite's name, as .png, .jpg or another picture, in the folder or in <subset>/ of it. Several folders
    are compared image by image, with 95 % bootstrap intervals.

    Examples:
      diffharmony evaluate --data iHarmony4 --list IHD_test.txt --predictions out/harmonized --out out/report
      diffharmony evaluate --data iHarmony4 --predictions out/512 out/1024 --baselines composite --convention pctnet --size native
    """

    data: Path
    """Data set in iHarmony4's layout."""
    predictions: tuple[Path, ...] = ()
    """Folders of predictions, one or several."""
    baselines: tuple[Literal["composite", "colour_transfer"], ...] = ()
    """Measure these as well: the composite as it is, mean/std colour transfer in CIE Lab."""
    list: Annotated[str, tyro.conf.arg(metavar="FILE")] = "IHD_test.txt"
    """List of composites (.txt or .jsonl): a name in the data set's folder, or a path."""
    convention: Literal["diffharmony", "is2am", "pctnet", "hdnet", "harmonizer"] = "diffharmony"
    """Whose way of measuring: how images and masks are resized, what PSNR and fMSE are of. diffharmony is the paper's."""
    real_background: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Lay the real image's background over each prediction first. Without either switch: as the convention does."""
    no_real_background: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the background as it was predicted."""
    size: int | Literal["native"] = 256
    """Side in pixels that is measured at; "native" is each image's own (full resolution)."""
    out: Path | None = None
    """Folder to write results.json, images.csv, tables.md and index.html to: a new one, or an earlier report's."""
    cases: int = 6
    """Worst and best images of each figure that index.html shows as pictures."""
    workers: int | None = None
    """Threads; one per core that is free to this process when left out. They change no figure."""
    resamples: int = 2000
    """Bootstrap resamples; 0 leaves intervals and comparisons out."""
    seed: int = 0
    """Of the bootstrap."""
    json: bool = False
    """Print one JSON object as the last line, and the tables on the error stream."""


def run_evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run `diffharmony evaluate`. Returns: what --json prints. Raises: as evaluate()."""
    from ..evaluation.evaluator import evaluate
    from ..evaluation.tables import evaluation_text

    if config.real_background and config.no_real_background:
        raise ValueError("background must be one of --real-background and --no-real-background, got both. Leave one out.")
    result = evaluate(
        config.data,
        config.list,
        config.predictions,
        config.convention,
        True if config.real_background else False if config.no_real_background else None,
        size=None if config.size == "native" else config.size,
        baselines=config.baselines,
        workers=config.workers,
        resamples=config.resamples,
        seed=config.seed,
        out=config.out,
        cases=config.cases,
    )
    stream = sys.stderr if config.json else sys.stdout
    print(evaluation_text(result, NAMES_SHOWN), file=stream, flush=True)
    if config.out is not None:
        print(f"\nWrote {config.out}: index.html, tables.md, images.csv, results.json", file=stream, flush=True)
    return result
