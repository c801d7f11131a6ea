"""What a harmony classifier is worth on a data set: accuracy, AUC, calibration, and planted candidates found.

    python -m diffharmony.applications.tiny.classifier_report --data .cache/tiny/test-256 --planted 100 --out out/classifier
    python -m diffharmony.applications.tiny.classifier_report --classifier model_state_dict.pth --data iHarmony4 --list IHD_test.txt
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...classifier.checkpoint import load_harmony_classifier
from ...classifier.inference import unharmonious_probability
from ...classifier.measures import auc, draw_measures, measure_probabilities, measures_text
from ...classifier.model import HarmonyClassifier
from ...common.assets import TINY
from ...common.devices import find_device
from ...common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture
from ...common.run_folder import digest
from ...dataset.layout import TEST_LIST
from ...dataset.pairs import Pair, read_list
from ...inverse.distance import distances_from_real
from .planted import CANDIDATES, STRONG_FMSE, find_planted
from .report_command import run_report, write_report

AHEAD = 8  # pairs that are read while others are scored
STRENGTHS = ((0.0, 200.0), (200.0, 600.0), (600.0, 1500.0), (1500.0, float("inf")))  # of fMSE


@dataclass(frozen=True)
class ClassifierReport:
    """Measure a harmony classifier on each composite of a list beside its real image, at the files' own size.

    Examples:
      python -m diffharmony.applications.tiny.classifier_report --data .cache/tiny/test-256 --planted 100
      python -m diffharmony.applications.tiny.classifier_report --classifier model_state_dict.pth --data iHarmony4 --out out/classifier
    """

    data: Path
    """Data set in iHarmony4's layout."""
    classifier: Path = TINY / "harmony_classifier.safetensors"
    """Harmony classifier: our file, or the authors' model_state_dict.pth."""
    list: str = TEST_LIST
    """List file in `data`."""
    planted: int = 0
    """Also plant one strongly recoloured candidate among nine untouched ones in so many of the list's real images, and select."""
    seed: int = 0
    """Of the planted set."""
    out: Path | None = None
    """Folder to write report.json and calibration.png to; made where missing."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    json: bool = False
    """Print one JSON object as the last line."""


def score_pairs(
    classifier: HarmonyClassifier, pairs: Sequence[Pair], *, device: torch.device | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unharmonious probabilities [N] of the composites and of their real images, and each composite's fMSE (SPEC §8), float64.

    Raises: FileNotFoundError, ValueError for images that are missing, damaged, or of several sizes in a pair.
    """
    composites, reals, strengths = [], [], []
    known: dict[tuple[Path, Path | None], float] = {}  # composites share real images, and with them masks
    with ThreadPoolExecutor(2) as pool:
        todo, waiting = iter(pairs), []
        for _ in tqdm(range(len(pairs)), desc="pairs", unit="pair", delay=2, dynamic_ncols=True):
            waiting += [(pair, pool.submit(_read, pair)) for pair in islice(todo, AHEAD - len(waiting))]
            pair, future = waiting.pop(0)
            images, mask = future.result()
            key = (pair.real, pair.mask if classifier.needs_mask else None)
            wanted = images[:1] if key in known else images
            scores = unharmonious_probability(classifier, wanted, mask, device=device).tolist()
            known.setdefault(key, scores[-1])
            composites.append(scores[0])
            reals.append(known[key])
            strengths.append(distances_from_real(images[:1], images[1:], mask).item())
    return np.array(composites), np.array(reals), np.array(strengths)


def by_strength(composites: np.ndarray, reals: np.ndarray, strengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """AUC and count for composites of each range of fMSE, against all real images."""
    ranges = {}
    for low, high in STRENGTHS:
        inside = (strengths >= low) & (strengths < high)
        if inside.any():
            ranges[f"{low:g}-{high:g}"] = {"count": int(inside.sum()), "auc": auc(composites[inside], reals)}
    return ranges


def make_report(config: ClassifierReport) -> dict[str, Any]:
    """Measure, write the files where `out` says, and return what report.json holds. Raises: as the loaders and `find_planted` do."""
    if config.planted < 0:
        raise ValueError(f"planted must be at least 0, got {config.planted}. Leave it out for none.")
    classifier, device = load_harmony_classifier(config.classifier), find_device(config.device)
    pairs = read_list(config.data, config.list)
    composites, reals, strengths = score_pairs(classifier, pairs, device=device)
    report = {
        "command": "classifier_report",
        "classifier": {"file": config.classifier.name, "digest": digest(config.classifier), "config": classifier.config},
        "list": {"file": config.list, "sha256": hashlib.sha256((config.data / config.list).read_bytes()).hexdigest()[:16]},
        "pairs": len(pairs),
        **measure_probabilities(composites, reals),
        "by_fmse": by_strength(composites, reals, strengths),
        "planted": find_planted(classifier, pairs, images=config.planted, seed=config.seed, device=device) if config.planted else None,
    }
    if config.out is not None:
        write_report(config.out, report)
        draw_measures(composites, reals, config.out / "calibration.png")
    return report


def report_text(report: dict[str, Any]) -> str:
    """Lines for people."""
    lines = [f"{report['classifier']['file']} on {report['list']['file']}:", measures_text(report)]
    lines += [f"  AUC, fMSE {name:<14} {row['auc']:.4f} ({row['count']} composites)" for name, row in report["by_fmse"].items()]
    planted = report["planted"]
    if planted is not None:
        lines.append(
            f"  planted candidates found      {planted['found']} of {planted['images']} "
            f"(mean rank {planted['mean_rank']:.2f} of {CANDIDATES}, recoloured by fMSE {STRONG_FMSE:g} or more, "
            f"median {planted['fmse']['median']:.0f})"
        )
    return "\n".join(lines)


def _read(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Composite and real image [2, 3, H, W] in -1..1, mask [1, 1, H, W] in 0..1."""
    images = [pil_to_tensor(read_picture(path)) for path in (pair.composite, pair.real)]
    mask = pil_to_mask(read_mask(pair.mask))
    if not images[0].shape[2:] == images[1].shape[2:] == mask.shape[2:]:
        sizes = ", ".join(f"{item.shape[-1]} x {item.shape[-2]} px" for item in (*images, mask))
        raise ValueError(f"composite, real image and mask must have one size, got {sizes} for {pair.composite}. Mend the data set.")
    return torch.cat(images), mask


if __name__ == "__main__":
    run_report(ClassifierReport, make_report, report_text)
