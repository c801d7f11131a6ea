"""Figures of one harmonized image beside its real image, by the convention of a published method (SPEC §8)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .conventions import CONVENTIONS, Convention, Errors, Side, find_convention, full_scale
from .resizing import Box

__all__ = [
    "CONVENTIONS", "METRICS", "LARGER_IS_BETTER", "RANGES", "Measurement", "Target", "foreground_box", "measure", "measure_arrays",
    "measure_target", "psnr", "range_of", "summarize",
]  # fmt: skip

SIZE = 256  # the side that published figures are measured at
PSNR_CAP = 100.0  # dB; two equal images have no finite PSNR, and one such would swallow a mean
RANGES = {"0-5": (0.0, 0.05), "5-15": (0.05, 0.15), "15-100": (0.15, math.inf)}  # foreground share, per cent; upper end excluded
METRICS = {"PSNR": "psnr", "MSE": "mse", "fMSE": "fmse", "bMSE": "bmse"}
LARGER_IS_BETTER = ("PSNR",)


@dataclass(frozen=True)
class Measurement:
    """Figures of one image: floats; pixel values count 0..255, errors are squared, PSNR is in dB and at most PSNR_CAP.

    fmse is NaN where the mask has no foreground, bmse where it has no background, psnr where the convention's peak is 0 (a
    black real image, a prediction of one colour). foreground: share of the image, 0..1.
    """

    psnr: float
    mse: float
    fmse: float
    bmse: float
    foreground: float

    def values(self) -> dict[str, float | None]:
        """{"PSNR": ..., "MSE": ..., "fMSE": ..., "bMSE": ...}, None for NaN."""
        values = {figure: getattr(self, field) for figure, field in METRICS.items()}
        return {figure: None if math.isnan(value) else value for figure, value in values.items()}


def measure(
    prediction: Image.Image,
    real: Image.Image,
    mask: Image.Image,
    convention: str = "diffharmony",
    *,
    size: int | None = SIZE,
    real_background: bool | None = None,
) -> Measurement:
    """Measure a harmonized picture against the real one.

    prediction, real: PIL pictures of any mode. mask: PIL picture, white = foreground. With a `size` they may differ in size.
    convention: a key of CONVENTIONS. size: the square side that all three are brought to; None measures them as they are.
    real_background: lay the real image's background over the prediction first; None does as the convention does.
    Raises: ValueError for an unknown convention or size, or pictures of different sizes where `size` is None.
    Source: SPEC §8.
    """
    rules = find_convention(convention)
    side = to_side(size)
    if side is None and not prediction.size == real.size == mask.size:
        raise ValueError(
            "prediction, real image and mask must have one size to be measured at their own, got "
            f"{prediction.size}, {real.size}, {mask.size}. Pass a size, or resize them first."
        )
    return measure_arrays(
        rules.image(prediction, side), rules.image(real, side), rules.mask(mask, side), convention, real_background=real_background
    )


def measure_arrays(
    prediction: np.ndarray, real: np.ndarray, mask: np.ndarray, convention: str = "diffharmony", *, real_background: bool | None = None
) -> Measurement:
    """Measure arrays that are already in the convention's form.

    prediction, real: [H, W, 3], any real dtype, 0..255. mask: [H, W], 0..1 or bool. real_background: as in `measure`.
    Sums of 8-bit values are exact, so equal images give equal figures in any order and on any number of threads.
    Raises: ValueError for an unknown convention or other shapes. Source: SPEC §8.
    """
    rules = find_convention(convention)
    if real.ndim != 3 or real.shape[2] != 3 or 0 in real.shape:
        raise ValueError(f"real image must have shape [H, W, 3], got {list(real.shape)}. Move the channels to the end.")
    if prediction.shape != real.shape:
        raise ValueError(f"prediction must have the real image's shape {list(real.shape)}, got {list(prediction.shape)}. Resize it first.")
    if mask.shape != real.shape[:2]:
        raise ValueError(f"mask must have the real image's size {list(real.shape[:2])}, got {list(mask.shape)}. Resize it first.")
    if real_background is None:
        real_background = rules.real_background
    return _measure(prediction, real, mask, rules, real_background, mask.size)


@dataclass(frozen=True)
class Target:
    """A real image and its mask, ready to measure any number of predictions against.

    real: [h, w, 3], weights: [h, w], both in the convention's form, or cut to `box` where nothing beyond it can differ.
    pixels: of the whole image at the measured size.
    """

    real: np.ndarray
    weights: np.ndarray
    box: Box | None
    pixels: int


def foreground_box(weights: np.ndarray, rules: Convention, real_background: bool) -> Box | None:
    """The box outside of which no prediction can differ from the real image: the mask's, where the real background is pasted in.

    None for the whole image, also where the PSNR's peak asks for it, or the mask is empty.
    """
    if not real_background or rules.peak is not full_scale:
        return None
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def measure_target(prediction: Image.Image, target: Target, rules: Convention, size: int | None, real_background: bool) -> Measurement:
    """As `measure`, of a target that is ready."""
    return _measure(rules.image(prediction, to_side(size), target.box), target.real, target.weights, rules, real_background, target.pixels)


def _measure(
    prediction: np.ndarray, real: np.ndarray, mask: np.ndarray, rules: Convention, real_background: bool, pixels: int
) -> Measurement:
    working = np.result_type(prediction, real, np.float32)  # three squares of 8-bit values fit float32 exactly
    if real_background:
        prediction = _paste(prediction, real, mask)
    prediction = rules.levels(prediction)
    difference = np.subtract(prediction, real, dtype=working)
    squared = np.einsum("hwc,hwc->hw", difference, difference)
    inside = float(np.multiply(squared, mask).sum(dtype=np.float64))
    outside = float(np.multiply(squared, 1 - mask.astype(working)).sum(dtype=np.float64))
    errors = Errors(float(squared.sum(dtype=np.float64)), inside, float(mask.sum(dtype=np.float64)), pixels)
    mse = rules.mse(errors)
    return Measurement(
        psnr=psnr(mse, rules.peak(prediction, real)),
        mse=mse,
        fmse=rules.fmse(errors),
        bmse=outside / (3 * (pixels - errors.area)) if errors.area < pixels else math.nan,
        foreground=errors.area / pixels,
    )


def _paste(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.dtype == bool:
        return np.where(mask[..., None], prediction, real)
    weight = mask[..., None]
    return weight * prediction + (1 - weight) * real


def psnr(mse: float, peak: float = 255.0) -> float:
    """10 log10(peak² / mse) in dB, at most PSNR_CAP (which equal images get); NaN for a peak of 0."""
    if peak == 0:
        return math.nan
    return PSNR_CAP if mse == 0 else min(PSNR_CAP, 10 * math.log10(peak**2 / mse))


def summarize(measurements: Iterable[Measurement]) -> dict[str, float | int | None]:
    """Means over images: {"PSNR", "MSE", "fMSE", "bMSE", "count"}.

    Each figure is the mean of the images that have it (an empty mask has no fMSE, a full one no bMSE), None where none has.
    """
    measurements = list(measurements)
    summary: dict[str, float | int | None] = {}
    for figure, field in METRICS.items():
        values = [value for value in (getattr(item, field) for item in measurements) if not math.isnan(value)]
        summary[figure] = float(np.mean(values)) if values else None
    summary["count"] = len(measurements)
    return summary


def range_of(foreground: float) -> str:
    """The key of RANGES that a foreground share (0..1) falls in. Source: SPEC §8."""
    return next(name for name, (low, high) in RANGES.items() if low <= foreground < high)


def to_side(size: int | None) -> Side:
    """(size, size), or None for None. Raises: ValueError for anything but a whole number of at least 1."""
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(
            f"size must be a whole number of at least 1, or None for the images' own, got {size!r}. "
            f"Published figures are measured at {SIZE}."
        )
    return size, size
