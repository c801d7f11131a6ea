"""One training crop of a pair: decoded no larger than needed, cropped, resized, mirrored; 8 bits per channel."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from ...common.pictures import HALF, UNREADABLE, check_marked, eight_bit, grey_mask
from ...dataset.pairs import BadImage, Pair

# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size. What is left to the resize: with 1.5, the result is as near to that of the
# whole picture as a bilinear resize is to a bicubic one (about 40 dB); with 1, there would be aliasing.
LEFT_TO_RESIZE = 1.5
REACH = 1  # pixels of the resized mask that a bilinear filter spreads a pixel over, to each side


class Crop(NamedTuple):
    """A sample as it is read: composite, real [3,S,S] uint8, mask [1,S,S] uint8 in {0,1}."""

    composite: torch.Tensor
    real: torch.Tensor
    mask: torch.Tensor
    seed: int
    name: str


def read_crop(
    pair: Pair, size: int, *, min_crop: float, flip: bool, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Composite, real [3,S,S] uint8 and mask [1,S,S] uint8, 1 where at least half is foreground; all of one crop, at random mirrored.

    Raises: BadImage for a file that is missing, damaged, truncated, or of another size than the composite, or a mask that is none or
    marks nothing.
    """
    with _open(pair.composite) as composite, _open(pair.real) as real, _open(pair.mask) as mask_file:
        mask = _checked(grey_mask, _decoded(mask_file, pair.mask), pair.mask)
        for path, found in ((pair.mask, mask.size), (pair.real, real.size)):
            if found != composite.size:
                raise BadImage(
                    path,
                    f"composite, real image and mask must have one size, got {composite.size}, {real.size}, {mask.size} for "
                    f"{pair.composite}. Mend the data set.",
                )
        _checked(check_marked, mask, pair.mask)
        whole = 0, 0, *mask.size
        crop = draw_crop(np.asarray(mask) >= HALF, min_crop, rng) if min_crop < 1 else whole
        mirrored = flip and rng.random() < 0.5
        factor = reduction(crop, size)
        left, top, right, bottom = on_grid(crop, factor, mask.size)
        box = tuple(factor * value for value in (left, top, right, bottom))
        parts = [torch.from_numpy(_two_level(mask, box, size))[None]]
        for path, image in ((pair.composite, composite), (pair.real, real)):
            pixels, reduced = _pixels(image, path, factor)
            scale = factor // reduced
            part = pixels[:, top * scale : bottom * scale, left * scale : right * scale]
            # PyTorch's own resize of 8-bit pixels is several times faster than Pillow's, and gives the same to two levels
            parts.append(F.interpolate(part[None], size=(size, size), mode="bicubic", antialias=True)[0])
    mask, composite, real = (part.flip(-1) for part in parts) if mirrored else parts
    return composite, real, mask


def draw_crop(foreground: np.ndarray, min_crop: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random crop (left, top, right, bottom) with a foreground pixel near its middle; the whole image for min_crop 1.

    foreground: [H, W] bool. A crop keeps the image's aspect, and its sides are min_crop to 1 of the image's.
    """
    height, width = foreground.shape
    if min_crop >= 1:
        return 0, 0, width, height
    scale = rng.uniform(min_crop, 1)
    w, h = width * scale, height * scale
    ends = np.cumsum(np.count_nonzero(foreground, axis=1))
    if ends[-1]:
        # the pick-th foreground pixel, without listing the millions of a large image
        pick = rng.integers(ends[-1])
        row = int(np.searchsorted(ends, pick, side="right"))
        column = np.flatnonzero(foreground[row])[pick - ends[row]]
        centre = column + rng.uniform(-0.3, 0.3) * w, row + rng.uniform(-0.3, 0.3) * h
    else:
        centre = rng.uniform(0, width), rng.uniform(0, height)
    left, top = float(np.clip(centre[0] - w / 2, 0, width - w)), float(np.clip(centre[1] - h / 2, 0, height - h))
    return left, top, left + w, top + h


def reduction(crop: tuple[float, float, float, float], size: int) -> int:
    """By how much a JPEG may be reduced when decoded, 1, 2, 4 or 8, to cut `crop` at `size`."""
    left, top, right, bottom = crop
    return next((factor for factor in (8, 4, 2) if min(right - left, bottom - top) >= factor * size * LEFT_TO_RESIZE), 1)


def on_grid(crop: tuple[float, float, float, float], factor: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The crop in whole pixels of an image `factor` times smaller, so that reduced images and the mask are cut alike.

    What is left over at the right and bottom of `size` (width, height), less than `factor` pixels, is never part of it.
    """
    left, top, right, bottom = (round(value / factor) for value in crop)
    width, height = (side // factor for side in size)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    return min(left, right - 1), min(top, bottom - 1), right, bottom


def _two_level(mask: Image.Image, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """[S,S] uint8: 1 where at least half of what is in `box` is foreground, by a bilinear resize with antialias."""
    found = np.zeros((size, size), np.uint8)
    foreground = mask.getbbox()
    if foreground is None:
        return found
    # only the part that the foreground can reach is resized: most foregrounds are small
    spans = []
    for low, high, start, stop in ((foreground[0], foreground[2], box[0], box[2]), (foreground[1], foreground[3], box[1], box[3])):
        scale = (stop - start) / size
        first = max(0, floor((low - start) / scale) - REACH)
        last = min(size, ceil((high - start) / scale) + REACH)
        if first >= last:
            return found
        spans.append((first, last, start + first * scale, start + last * scale))
    (left, right, x, x_end), (top, bottom, y, y_end) = spans
    part = mask.resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=(x, y, x_end, y_end), reducing_gap=LEFT_TO_RESIZE
    )
    found[top:bottom, left:right] = np.asarray(part) >= HALF
    return found


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise BadImage(path, f"{path} must exist, got no such file. Complete the data set or mend its list.") from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _decoded(image: Image.Image, path: Path) -> Image.Image:
    # the three pictures of a pair lie pixel on pixel: an EXIF orientation of one must not turn it
    try:
        image.load()
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if image.mode == "F":
        raise BadImage(path, f"{path} must have 8 or 16 bits per channel, got floating values. Export it as PNG.")
    return eight_bit(image)


def _checked(check: Callable[[Image.Image, Path], Any], mask: Image.Image, path: Path) -> Any:
    try:
        return check(mask, path)
    except ValueError as error:
        raise BadImage(path, str(error)) from error


def _pixels(image: Image.Image, path: Path, factor: int) -> tuple[torch.Tensor, int]:
    """([3,h,w] uint8, the factor that they are reduced by): `factor`, or 1 for what is no JPEG."""
    if image.format == "JPEG" and factor == 1 and image.mode == "RGB":
        # libjpeg as in Pillow, but straight into a tensor
        try:
            return decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), mode=ImageReadMode.RGB), 1
        except (OSError, RuntimeError) as error:
            raise _unreadable(path, error) from error
    whole = image.size
    if factor > 1:
        image.draft(None, (whole[0] // factor, whole[1] // factor))
    image = _decoded(image, path)
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1), 1 if image.size == whole else factor  # HWC -> CHW


def _unreadable(path: Path, error: Exception) -> BadImage:
    reason = " ".join(str(error).split())
    return BadImage(path, f"{path} must be a readable image, got an error ({reason}). Copy or export it again.")
