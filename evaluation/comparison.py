"""Several methods on the same images: paired differences with bootstrap confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from tqdm import tqdm

from .metrics import LARGER_IS_BETTER, METRICS, RANGES, Measurement, range_of

RESAMPLES = 2000
LEVEL = 0.95
VALUES_AT_ONCE = 2**20  # resampled values held in memory


def bootstrap_interval(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean over images: [N] float -> (low, high).

    Source: B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; the percentile interval of Efron and Tibshirani, 1993.
    Raises: ValueError for no values.
    """
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values must be a list of at least one number, got shape {list(values.shape)}. Measure some images first.")
    if values.min() == values.max():
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap  # half a second

    found = bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=level, method="percentile", rng=np.random.default_rng(seed),
        batch=max(1, VALUES_AT_ONCE // len(values)),
    )  # fmt: skip
    low, high = found.confidence_interval
    return float(low), float(high)


def intervals(measurements: Sequence[Measurement], *, resamples: int, seed: int) -> dict[str, list[float] | None]:
    """Per figure [low, high] of its mean over these images; None where no image has it."""
    found: dict[str, list[float] | None] = {}
    for figure, field in METRICS.items():
        values = np.array([getattr(item, field) for item in measurements])
        values = values[~np.isnan(values)]
        found[figure] = list(bootstrap_interval(values, resamples=resamples, seed=seed)) if len(values) else None
    return found


def compare(
    methods: dict[str, Sequence[Measurement | None]], subsets: Sequence[str], *, resamples: int, seed: int, progress: bool = True
) -> list[dict[str, Any]]:
    """Every two methods, in the order given, on the images that both have.

    methods: label -> one Measurement or None per image. subsets: per image.
    Returns: per two methods {"a", "b", "count", "overall", "subsets", "ranges"}; a group is {"count", "PSNR": {...}, "MSE": ...},
    a figure {"difference": mean of b - a, "low", "high", "b_better": share of images, "count"}, or None where no image has it.
    The images of a group are resampled anew for each figure, from the same seed.
    """
    found = []
    pairs = list(combinations(methods, 2))
    for a, b in tqdm(pairs, desc="Comparing", unit="pair", disable=not progress, delay=2, dynamic_ncols=True):
        both = [(x, y, subset) for x, y, subset in zip(methods[a], methods[b], subsets) if x is not None and y is not None]
        found.append({
            "a": a,
            "b": b,
            "count": len(both),
            "overall": _group(both, resamples, seed),
            "subsets": {
                name: _group([item for item in both if item[2] == name], resamples, seed) for name in sorted({item[2] for item in both})
            },
            "ranges": {name: _group([item for item in both if range_of(item[0].foreground) == name], resamples, seed) for name in RANGES},
        })  # fmt: skip
    return found


def _group(members: Sequence[tuple[Measurement, Measurement, str]], resamples: int, seed: int) -> dict[str, Any]:
    return {"count": len(members), **{figure: _difference(members, figure, resamples, seed) for figure in METRICS}}


def _difference(members: Sequence[tuple[Measurement, Measurement, str]], figure: str, resamples: int, seed: int) -> dict[str, Any] | None:
    field = METRICS[figure]
    values = np.array([getattr(b, field) - getattr(a, field) for a, b, _ in members], dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = bootstrap_interval(values, resamples=resamples, seed=seed)
    better = values > 0 if figure in LARGER_IS_BETTER else values < 0
    return {"difference": math.fsum(values) / len(values), "low": low, "high": high, "b_better": float(better.mean()), "count": len(values)}
