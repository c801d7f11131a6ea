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

    A prediction bears its composite's name and ends in .png or .jpg.

    Examples:
      diffharmony evaluate --data iHarmony4 --list IHD_test.txt --predictions out/harmonized
      diffharmony evaluate --data iHarmony4 --predictions out/512 out/1024 --no-real-background --json
    """

    data: Path
    """Data set in iHarmony4's layout."""
    predictions: tuple[Path, ...]
    """Folders of predictions, one or several."""
    list: Annotated[str, tyro.conf.arg(metavar="FILE")] = "IHD_test.txt"
    """List of composites (.txt or .jsonl): a name in the data set's folder, or a path."""
    convention: str = "diffharmony"
    """Whose way of measuring. diffharmony: 256 px by Pillow's bilinear filter, 8 bits, two-level mask, peak 255."""
    real_background: bool = True
    """Lay the real image's background over each prediction first, as the paper does."""
    size: int | Literal["native"] = 256
    """Side in pixels that is measured at; "native" is each image's own."""
    json: bool = False
    """Print one JSON object as the last line, and the table on the error stream."""


def run_evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run `diffharmony evaluate`. Returns: what --json prints. Raises: as evaluate()."""
    from .evaluator import evaluate
    from .tables import evaluation_text

    result = evaluate(
        config.data,
        config.list,
        config.predictions,
        config.convention,
        config.real_background,
        size=None if config.size == "native" else config.size,
    )
    print(evaluation_text(result, NAMES_SHOWN), file=sys.stderr if config.json else sys.stdout, flush=True)
    return result
