"""What a classifier's probabilities are worth: accuracy, AUC, calibration, and a picture of them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

BINS = 10


def auc(composites: np.ndarray, reals: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a composite [N] has a higher value than a real image [M], ties counting half.

    Raises: ValueError where one of the two is empty.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(_labels(composites, reals), _both(composites, reals)))


def calibration_curve(composites: np.ndarray, reals: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """For each of `bins` equal parts of 0..1 that has images: {"from", "to", "count", "probability", "composites"}, the mean of their
    probabilities and the share of composites among them."""
    values = _both(composites, reals)
    is_composite = _labels(composites, reals)
    which = np.clip((values * bins).astype(int), 0, bins - 1)
    rows = []
    for index in np.unique(which):
        inside = which == index
        rows.append({
            "from": index / bins, "to": (index + 1) / bins, "count": int(inside.sum()), "probability": float(values[inside].mean()),
            "composites": float(is_composite[inside].mean()),
        })  # fmt: skip
    return rows


def expected_calibration_error(curve: list[dict[str, Any]]) -> float:
    """Mean distance of probability and share of composites, over the images of a calibration curve."""
    counts = np.array([row["count"] for row in curve])
    gaps = np.array([abs(row["probability"] - row["composites"]) for row in curve])
    return float((counts * gaps).sum() / counts.sum())


def measure_probabilities(composites: np.ndarray, reals: np.ndarray) -> dict[str, Any]:
    """{"accuracy", "auc", "ordered", "ece", "mean_composite", "mean_real", "calibration"}.

    composites, reals: unharmonious probabilities [N] of composites, and of the real image of each, in the same order. accuracy: at a
    threshold of 0.5. ordered: share of the pairs whose composite is the more unharmonious one. ece: expected calibration error.
    Raises: ValueError where they are empty, of other lengths, or no probabilities.
    """
    if len(composites) != len(reals):
        raise ValueError(
            f"reals must be one for each of {len(composites)} composites, got {len(reals)}. Pass each composite's own real image."
        )
    curve = calibration_curve(composites, reals)
    return {
        "accuracy": float(((composites >= 0.5).mean() + (reals < 0.5).mean()) / 2),
        "auc": auc(composites, reals),
        "ordered": float((composites > reals).mean()),
        "ece": expected_calibration_error(curve),
        "mean_composite": float(composites.mean()),
        "mean_real": float(reals.mean()),
        "calibration": curve,
    }


def measures_text(measures: dict[str, Any]) -> str:
    """Lines for people."""
    return "\n".join([
        f"  pairs                         {measures['pairs']}",
        f"  accuracy at 0.5               {measures['accuracy']:.4f}",
        f"  AUC                           {measures['auc']:.4f}",
        f"  composite above its own real  {measures['ordered']:.4f}",
        f"  expected calibration error    {measures['ece']:.4f}",
        f"  mean probability              {measures['mean_composite']:.3f} of composites, {measures['mean_real']:.3f} of real images",
    ])  # fmt: skip


def draw_measures(composites: np.ndarray, reals: np.ndarray, path: str | os.PathLike) -> None:
    """Write as PNG: the ROC curve, the reliability diagram, and how the probabilities are distributed."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    from ..common.plots import save_figure

    measures = measure_probabilities(composites, reals)
    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    roc, reliability, distribution = figure.subplots(1, 3)
    roc.plot(*roc_curve(_labels(composites, reals), _both(composites, reals))[:2], color="#0b6e4f")
    roc.plot((0, 1), (0, 1), color="#8a8a8a", linewidth=0.8, linestyle="--")
    roc.set(xlabel="real images taken for composites", ylabel="composites found", title=f"ROC, area {measures['auc']:.3f}")
    curve = measures["calibration"]
    middle = [(row["from"] + row["to"]) / 2 for row in curve]
    reliability.bar(middle, [row["composites"] for row in curve], width=0.9 / BINS, color="#0b6e4f", alpha=0.35)
    reliability.plot([row["probability"] for row in curve], [row["composites"] for row in curve], color="#0b6e4f", marker="o", markersize=4)
    reliability.plot((0, 1), (0, 1), color="#8a8a8a", linewidth=0.8, linestyle="--")
    reliability.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="unharmonious probability", ylabel="share of composites",
        title=f"calibration, expected error {measures['ece']:.3f}",
    )  # fmt: skip
    edges = np.linspace(0, 1, 2 * BINS + 1)
    for values, name, colour in ((composites, "composites", "#c8553d"), (reals, "real images", "#5b5f97")):
        distribution.hist(values, bins=edges, color=colour, alpha=0.55, label=name)
    title = f"{len(composites)} pairs, accuracy {measures['accuracy']:.3f}"
    distribution.set(xlabel="unharmonious probability", ylabel="images", title=title)
    distribution.legend(fontsize=8)
    for axes in (roc, reliability, distribution):
        axes.grid(alpha=0.25)
    save_figure(figure, path)


def _labels(composites: np.ndarray, reals: np.ndarray) -> np.ndarray:
    """Which of the values of `_both` are composites'."""
    return np.arange(len(composites) + len(reals)) < len(composites)


def _both(composites: np.ndarray, reals: np.ndarray) -> np.ndarray:
    values = np.concatenate([np.asarray(composites, dtype=np.float64), np.asarray(reals, dtype=np.float64)])
    if not len(composites) or not len(reals):
        raise ValueError(f"composites and real images must both be measured, got {len(composites)} and {len(reals)}. Pass some of each.")
    if not ((values >= 0) & (values <= 1)).all():  # NaN too
        raise ValueError("probabilities must lie in [0, 1], got others. Check the classifier's weights.")
    return values
