"""Figures of one harmonized image beside its real image, by the convention of a published method (SPEC §8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 256  # the side that published figures are measured at
PSNR_CAP = 100.0  # dB; two equal images have no finite PSNR, and one such would swallow a mean
RANGES = {"0-5": (0.0, 0.05), "5-15": (0.05, 0.15), "15-100": (0.15, math.inf)}  # foreground share, per cent; upper end excluded
FIGURES = {"PSNR": "psnr", "MSE": "mse", "fMSE": "fmse", "bMSE": "bmse"}


@dataclass(frozen=True)
class Measurement:
    """Figures of one image: floats; pixel values count 0..255, errors are squared, PSNR is in dB and at most PSNR_CAP.

    fmse is NaN where the mask has no foreground, bmse where it has no background. foreground: share of the image, 0..1.
    """

    psnr: float
    mse: float
    fmse: float
    bmse: float
    foreground: float


@dataclass(frozen=True)
class Convention:
    """One row of SPEC §8's table. A convention is what these functions do; nothing else depends on its name.

    image: an RGB picture and (width, height), or None for its own size -> [h, w, 3] float64, 0..255.
    mask: a mask picture as its file holds it, and the same -> [h, w] float64, 0..1.
    peak: prediction and real [h, w, 3] -> the PSNR's peak.
    region_error: squared errors [h, w, 3] and weights [h, w] 0..1 -> mean squared error of that region, NaN for an empty one.
    real_background: whether the real image's background is pasted in unless the caller says otherwise.
    """

    image: Callable[[Image.Image, tuple[int, int] | None], np.ndarray]
    mask: Callable[[Image.Image, tuple[int, int] | None], np.ndarray]
    peak: Callable[[np.ndarray, np.ndarray], float]
    region_error: Callable[[np.ndarray, np.ndarray], float]
    real_background: bool


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
    size: the square side that all three are brought to; None measures them as they are. real_background: lay the real
    image's background over the prediction first; None does as the convention does.
    Raises: ValueError for an unknown convention or size, or pictures of different sizes where `size` is None.
    Source: SPEC §8.
    """
    rules = find_convention(convention)
    if size is None:
        if not prediction.size == real.size == mask.size:
            raise ValueError(
                "prediction, real image and mask must have one size to be measured at their own, got "
                f"{prediction.size}, {real.size}, {mask.size}. Pass a size, or resize them first."
            )
        side = None
    elif not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, or None for the pictures' own, got {size!r}. Published figures are measured at {SIZE}.")
    else:
        side = (size, size)
    return measure_arrays(
        rules.image(prediction, side),
        rules.image(real, side),
        rules.mask(mask, side),
        convention,
        real_background=rules.real_background if real_background is None else real_background,
    )


def measure_arrays(
    prediction: np.ndarray, real: np.ndarray, mask: np.ndarray, convention: str = "diffharmony", *, real_background: bool = True
) -> Measurement:
    """Measure arrays that are already in the convention's form.

    prediction, real: [H, W, 3], any real dtype, 0..255. mask: [H, W], 0..1 or bool.
    Raises: ValueError for an unknown convention or other shapes. Source: SPEC §8.
    """
    rules = find_convention(convention)
    if real.ndim != 3 or real.shape[2] != 3 or 0 in real.shape:
        raise ValueError(f"real image must have shape [H, W, 3], got {list(real.shape)}. Move the channels to the end.")
    if prediction.shape != real.shape:
        raise ValueError(f"prediction must have the real image's shape {list(real.shape)}, got {list(prediction.shape)}. Resize it first.")
    if mask.shape != real.shape[:2]:
        raise ValueError(f"mask must have the real image's size {list(real.shape[:2])}, got {list(mask.shape)}. Resize it first.")
    prediction, real, mask = (array.astype(np.float64) for array in (prediction, real, mask))
    if real_background:
        weight = mask[..., None]
        prediction = weight * prediction + (1 - weight) * real
    squared = (prediction - real) ** 2
    mse = float(squared.mean())
    return Measurement(
        psnr=psnr(mse, rules.peak(prediction, real)),
        mse=mse,
        fmse=rules.region_error(squared, mask),
        bmse=rules.region_error(squared, 1 - mask),
        foreground=float(mask.mean()),
    )


def psnr(mse: float, peak: float = 255.0) -> float:
    """10 log10(peak² / mse) in dB, at most PSNR_CAP (which equal images get)."""
    return PSNR_CAP if mse == 0 else min(PSNR_CAP, 10 * math.log10(peak**2 / mse))


def find_convention(name: str) -> Convention:
    """Raises: ValueError for a name that is not in CONVENTIONS, with those that are."""
    if name not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {name!r}. Pass one of these.")
    return CONVENTIONS[name]


def summarize(measurements: Iterable[Measurement]) -> dict[str, float | int | None]:
    """Means over images: {"PSNR", "MSE", "fMSE", "bMSE", "count"}.

    Each figure is the mean of the images that have it (an empty mask has no fMSE, a full one no bMSE), None where none has.
    """
    measurements = list(measurements)
    summary: dict[str, float | int | None] = {}
    for figure, field in FIGURES.items():
        values = [value for value in (getattr(item, field) for item in measurements) if not math.isnan(value)]
        summary[figure] = float(np.mean(values)) if values else None
    summary["count"] = len(measurements)
    return summary


def range_of(foreground: float) -> str:
    """The key of RANGES that a foreground share (0..1) falls in. Source: SPEC §8."""
    return next(name for name, (low, high) in RANGES.items() if low <= foreground < high)


def _pil_bilinear(image: Image.Image, side: tuple[int, int] | None) -> np.ndarray:
    # Pillow's own bilinear filter widens with the reduction, which is what others call antialias; it rounds to 8 bits
    image = image.convert("RGB")
    if side not in (None, image.size):
        image = image.resize(side, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float64)


def _pil_two_level(image: Image.Image, side: tuple[int, int] | None) -> np.ndarray:
    image = image.convert("1")  # dithers grey
    if side not in (None, image.size):
        image = image.resize(side, Image.Resampling.NEAREST)  # Pillow resizes this mode in no other way
    return np.asarray(image, dtype=np.float64)


def _full_scale(prediction: np.ndarray, real: np.ndarray) -> float:
    return 255.0


def _region_mean(squared: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float((squared * weights[..., None]).sum() / (squared.shape[2] * total)) if total > 0 else math.nan


CONVENTIONS: dict[str, Convention] = {
    "diffharmony": Convention(_pil_bilinear, _pil_two_level, _full_scale, _region_mean, real_background=True),
}
