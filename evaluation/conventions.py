"""How published methods measure: one row of SPEC §8's table each, and the rules that the rows are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from .resizing import Box, resize_part

Side = tuple[int, int] | None  # (width, height) to bring a picture to, or None for its own


class Errors(NamedTuple):
    """Sums of one image: of squared errors over all values and over mask-weighted values, of the mask, and how many pixels."""

    whole: float
    inside: float
    area: float
    pixels: int


@dataclass(frozen=True)
class Convention:
    """One row of SPEC §8's table. A convention is what these functions do; nothing else depends on its name."""

    image: Callable[..., np.ndarray]
    """(picture, Side, Box or None) -> [h, w, 3] uint8 or float32, 0..255: the resized picture, or what is in the box of it."""
    levels: Callable[[np.ndarray], np.ndarray]
    """Prediction [h, w, 3] -> the values that are compared."""
    real_background: bool
    """Whether the real image's background is pasted in unless the caller says otherwise."""
    peak: Callable[[np.ndarray, np.ndarray], float]
    """Prediction and real [h, w, 3] -> the PSNR's peak."""
    mask: Callable[[Image.Image, Side], np.ndarray]
    """A mask picture as its file holds it -> [h, w], bool or float32 0..1."""
    mse: Callable[[Errors], float]
    """What is called MSE, and what the PSNR is of."""
    fmse: Callable[[Errors], float]
    """What is called fMSE; NaN for an empty mask."""


def pil(image: Image.Image, side: Side, box: Box | None = None) -> np.ndarray:
    """Pillow's bilinear filter: it widens with the reduction, which others call antialias, and rounds to 8 bits."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    if side in (None, image.size):
        return _cut(np.asarray(image), box)
    return np.asarray(image.resize(side, Image.Resampling.BILINEAR)) if box is None else resize_part(image, side, box)


def _cut(pixels: np.ndarray, box: Box | None) -> np.ndarray:
    return pixels if box is None else pixels[box[1] : box[3], box[0] : box[2]]


def opencv(image: Image.Image, side: Side, box: Box | None = None) -> np.ndarray:
    """OpenCV's INTER_LINEAR in float: the four nearest pixels, however strong the reduction; no rounding."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    if side in (None, image.size):
        return _cut(np.asarray(image, dtype=np.float32), box)
    return _cut(np.stack([_four_nearest(band, side) for band in image.split()], axis=-1), box)


def two_level(mask: Image.Image, side: Side) -> np.ndarray:
    """Pillow's mode "1", which dithers grey, resized to the nearest pixel: Pillow resizes this mode in no other way. [h, w] bool."""
    if mask.mode == "L":
        mask = _dithered(mask)
    elif mask.mode != "1":
        mask = mask.convert("1")
    if side not in (None, mask.size):
        mask = mask.resize(side, Image.Resampling.NEAREST)
    return np.asarray(mask).astype(bool)


def _dithered(mask: Image.Image) -> Image.Image:
    """As mask.convert("1"), of the part alone that it changes; the mask itself where it has no grey.

    Pillow gives 7, 3, 5 and 1 sixteenths of a pixel's error to those at its right and, a row lower, left, below and right. A black
    pixel takes on no more than the largest of these, at most 128, so it stays black, and only above 128 would it turn. By column to
    the left of the foreground errors fall by 3/8, the root of 16 x = 7 x² + 3 + 5 x + x²: the fifth column's are under 1, which is 0.
    """
    box = mask.getbbox()
    if box is None:
        return mask
    left, top = max(0, box[0] - 5), box[1]
    part = mask.crop((left, top, mask.width, box[3]))
    counts = part.histogram()
    if counts[0] + counts[255] == part.width * part.height:
        return mask
    dithered = Image.new("1", mask.size)
    dithered.paste(part.convert("1"), (left, top))
    return dithered


def soft(mask: Image.Image, side: Side) -> np.ndarray:
    """The mask's grey as weights, resized as OpenCV's INTER_LINEAR does. [h, w] float32 0..1."""
    mask = mask.convert("L")
    return (np.asarray(mask, dtype=np.float32) if side in (None, mask.size) else _four_nearest(mask, side)) / 255


def _four_nearest(band: Image.Image, side: tuple[int, int]) -> np.ndarray:
    """[h, w] float32 of one 8-bit band."""
    pixels = np.asarray(band)
    left, right, across = _neighbours(band.width, side[0])
    upper, lower, down = _neighbours(band.height, side[1])

    def row(rows: np.ndarray) -> np.ndarray:
        return _between(np.take(rows, left, axis=1), np.take(rows, right, axis=1), across)

    return _between(row(pixels[upper]), row(pixels[lower]), down[:, None])


def _neighbours(length: int, to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `to` pixels the two of `length` that it lies between, and how far it is from the first, 0..1."""
    place = (np.arange(to) + 0.5) * (length / to) - 0.5
    first = np.floor(place)
    lower, upper = (np.clip(index, 0, length - 1).astype(np.intp) for index in (first, first + 1))
    return lower, upper, (place - first).astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + (second - first) * share in float32."""
    first = first.astype(np.float32, copy=False)
    difference = second.astype(np.float32)
    difference -= first
    difference *= share
    difference += first
    return difference


def as_given(prediction: np.ndarray) -> np.ndarray:
    """What the resize gives, 8 bits or float."""
    return prediction


def truncated(prediction: np.ndarray) -> np.ndarray:
    """Cut to whole values, as a cast to 8 bits does; values of 8 bits stay."""
    return prediction if prediction.dtype == np.uint8 else np.trunc(prediction)


def full_scale(prediction: np.ndarray, real: np.ndarray) -> float:
    return 255.0


def real_maximum(prediction: np.ndarray, real: np.ndarray) -> float:
    return float(real.max())


def prediction_range(prediction: np.ndarray, real: np.ndarray) -> float:
    return float(prediction.max()) - float(prediction.min())


def mean(errors: Errors) -> float:
    """Mean over the whole image."""
    return errors.whole / (3 * errors.pixels)


def masked_mean(errors: Errors) -> float:
    """Errors of the foreground alone, divided by the whole image's size."""
    return errors.inside / (3 * errors.pixels)


def foreground_mean(errors: Errors) -> float:
    """Σ m d² / (3 Σ m)."""
    return errors.inside / (3 * errors.area) if errors.area > 0 else math.nan


def whole_over_foreground(errors: Errors) -> float:
    """The whole image's MSE times its pixels (256² as published) over the mask's: background errors count too."""
    return errors.whole / (3 * errors.area) if errors.area > 0 else math.nan


# Source: SPEC §8. PCT-Net's full resolution is size=None. iS2AM's and PCT-Net's own loaders also round the resized real image to
# 8 bits, which the table leaves out; HDNet's and Harmonizer's predictions become floats only in a network, never in a file.
CONVENTIONS: dict[str, Convention] = {
    "diffharmony": Convention(
        image=pil, levels=as_given, real_background=True, peak=full_scale, mask=two_level, mse=mean, fmse=foreground_mean
    ),
    "is2am": Convention(
        image=opencv, levels=as_given, real_background=False, peak=real_maximum, mask=soft, mse=mean, fmse=foreground_mean
    ),
    "pctnet": Convention(
        image=opencv, levels=as_given, real_background=False, peak=full_scale, mask=soft, mse=masked_mean, fmse=foreground_mean
    ),
    "hdnet": Convention(
        image=pil, levels=truncated, real_background=True, peak=full_scale, mask=two_level, mse=mean, fmse=whole_over_foreground
    ),
    "harmonizer": Convention(
        image=pil, levels=as_given, real_background=False, peak=prediction_range, mask=two_level, mse=mean, fmse=foreground_mean
    ),
}


def find_convention(name: str) -> Convention:
    """Raises: ValueError for a name that is not in CONVENTIONS, with those that are."""
    if name not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {name!r}. Pass one of these.")
    return CONVENTIONS[name]
