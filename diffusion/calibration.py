"""Never worse: how far a predicted change may be trusted, measured on validation images and carried by the checkpoint.

Small predicted changes are mostly error, large ones mostly true: below the measured floor a change is none, above it it shrinks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..common.files import parse_json

FEWEST_RECORDS = 12
BINS = 8
GRID = np.geomspace(1.0, 1024.0, 61)  # sizes of change at which a calibration is written down, in floors
LEAST_FLOOR, FLOORS = 0.05, 400
ALLOWED_WORSE = 0.2  # share of the validation images that may come out worse
WORSE = 1.05  # an error of that many times the composite's counts as worse


class Record(NamedTuple):
    """Of one validation image, root mean squares over the foreground, counted 0..255: `predicted` of the harmonized image's change of the
    composite, `true` of the real image's, `error` of the difference between both."""

    predicted: float
    true: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """change: sizes of predicted change, rising. factor: what such a change is multiplied by, never falling, 0..1. floor: the measured
    error of such a change, never falling; it is for people, the factors do the shrinking. count: the records behind it."""

    change: tuple[float, ...]
    factor: tuple[float, ...]
    floor: tuple[float, ...]
    count: int

    def __post_init__(self):
        lengths = {len(self.change), len(self.factor), len(self.floor)}
        sound = len(lengths) == 1 and self.change and all(math.isfinite(value) for value in (*self.change, *self.factor, *self.floor))
        if sound:
            rising = all(low < high for low, high in zip(self.change, self.change[1:])) and _rising(self.factor) and _rising(self.floor)
            sound = rising and min(self.change[0], self.count) > 0 and 0 <= self.factor[0] and self.factor[-1] <= 1 and self.floor[0] >= 0
        if not sound:
            raise ValueError(
                "calibration must have rising changes above 0, as many never falling factors in 0..1 and errors of at least 0, and a count, got "
                f"{list(self.change)}, {list(self.factor)}, {list(self.floor)} and {self.count}. Fit it again."
            )

    def shrinkage(self, predicted: torch.Tensor) -> torch.Tensor:
        """The factor for predicted changes (any shape, >= 0, counted 0..255), linear between the measured ones; below the smallest it
        falls to 0 with the square of the change, above the largest it stays."""
        change, factor = (torch.tensor(values, dtype=torch.float32, device=predicted.device) for values in (self.change, self.factor))
        above = torch.searchsorted(change, predicted.float().contiguous()).clamp(1, max(1, len(change) - 1)) if len(change) > 1 else None
        if above is None:
            found = factor[0].expand(predicted.shape)
        else:
            share = ((predicted.float() - change[above - 1]) / (change[above] - change[above - 1])).clamp(0, 1)
            found = torch.lerp(factor[above - 1], factor[above], share)
        return found * (predicted / change[0]).clamp(0, 1).square()

    def to_json(self) -> str:
        return json.dumps({name: [round(v, 4) for v in value] if isinstance(value, tuple) else value for name, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Raises: ValueError for anything but what `to_json` writes."""
        try:
            found = parse_json(text)
            values, count = [tuple(map(float, found[name])) for name in ("change", "factor", "floor")], int(found["count"])
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"calibration must be JSON with change, factor, floor and count, got {text[:80]!r}. Fit it again.") from error
        return cls(*values, count=count)


def fit_calibration(records: Sequence[Record], *, allowed_worse: float = ALLOWED_WORSE) -> Calibration:
    """The calibration that validation images measure: soft thresholding, the factor 1 - floor / change, or none at all below the floor, with
    the least floor at which at most `allowed_worse` of the images come out worse than the composite. (James and Stein's 1 - floor² / change²,
    allowed as many, leaves mild changes worse: docs/results.md.)

    Its `floor` is the measured error of changes of each size, made to rise with the size by isotonic regression.
    Raises: ValueError for fewer than 12 records, sizes that are not finite or negative, or a share outside 0..1.
    Source: D. Donoho, "De-Noising by Soft-Thresholding", 1995.
    """
    from scipy.optimize import isotonic_regression

    if len(records) < FEWEST_RECORDS:
        raise ValueError(f"records must be at least {FEWEST_RECORDS}, got {len(records)}. Validate on more images.")
    if not 0 <= allowed_worse <= 1:
        raise ValueError(f"allowed_worse must be a share in 0..1, got {allowed_worse!r}. Pass 0.1, say.")
    values = np.array(records, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 3 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("records must be finite sizes of at least 0, got others. Leave images without foreground out.")
    values = values[np.argsort(values[:, 0], kind="stable")]
    parts = [part for part in np.array_split(values, min(BINS, len(values) // 6)) if part[:, 0].max() > 0]
    if not parts:
        raise ValueError("records must have a predicted change somewhere, got none. Validate a trained model.")
    sizes, errors = (np.array([np.sqrt((part[:, column] ** 2).mean()) for part in parts]) for column in (0, 2))
    errors = isotonic_regression(errors, weights=[len(part) for part in parts]).x

    def with_floor(floor: float) -> Calibration:
        change = floor * GRID
        measured = np.interp(change, sizes, errors)
        return Calibration(tuple(change.tolist()), tuple((1 - 1 / GRID).tolist()), tuple(measured.tolist()), len(values))

    floors = np.linspace(LEAST_FLOOR, max(LEAST_FLOOR, float(values[:, 0].max())), FLOORS)
    return next((found for found in map(with_floor, floors) if share_worse(records, found) <= allowed_worse), with_floor(floors[-1]))


def share_worse(records: Sequence[Record], calibration: Calibration | None = None) -> float:
    """The share of the records whose squared error, after shrinking, is more than 1.05 times the composite's."""
    values = torch.tensor(records, dtype=torch.float32)
    return float((_errors(values, calibration) ** 2 > WORSE * values[:, 1] ** 2).float().mean())


def _errors(values: torch.Tensor, calibration: Calibration | None) -> torch.Tensor:
    predicted, true, error = values.T
    factor = torch.ones_like(predicted) if calibration is None else calibration.shrinkage(predicted)
    confirmed = (predicted**2 + true**2 - error**2) / 2
    return (factor**2 * predicted**2 - 2 * factor * confirmed + true**2).clamp_min(0).sqrt()


def draw_calibration(records: Sequence[Record], calibration: Calibration, path: str | os.PathLike) -> None:
    """A PNG: predicted against true change with the measured floor, and how often results are worse, before and after shrinking.

    path: written whole or not at all. Raises: FileNotFoundError when its folder does not exist.
    """
    from matplotlib.figure import Figure

    from ..common.plots import save_figure

    values = torch.tensor(records, dtype=torch.float32)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(values[:, 0], values[:, 1], s=12, label="validation images")
    left.plot(calibration.change, calibration.floor, "r-", label="error floor")
    top = float(values[:, :2].max()) * 1.05
    left.plot([0, top], [0, top], "k:", label="exact size")
    left.set(xlabel="predicted change (RMS, 0..255)", ylabel="true change", xlim=(0, top), ylim=(0, top))
    left.legend()
    parts = values[values[:, 0].argsort()].chunk(max(1, min(BINS, len(values) // 6)))
    middle = [float(part[:, 0].mean()) for part in parts]
    for chosen, label in ((None, "as predicted"), (calibration, "calibrated")):
        worse, of_all = [share_worse(part.tolist(), chosen) for part in parts], share_worse(records, chosen)
        right.plot(middle, worse, "o-", label=f"worse, {label}: {of_all:.0%} of all")
    right.plot(calibration.change, calibration.factor, "k--", label="factor")
    right.set(xlabel="predicted change (RMS, 0..255)", ylabel="share, factor", xlim=(0, top), ylim=(-0.02, 1.02))
    right.legend()
    save_figure(figure, path)


def _rising(values: Sequence[float]) -> bool:
    return all(low <= high for low, high in zip(values, values[1:]))
