"""A part of a picture that Pillow resizes, bit for bit as in the whole, without the work for the rest."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the resized picture
Pixels = Callable[[Image.Image, tuple[int, int], Box], np.ndarray]
BILINEAR = Image.Resampling.BILINEAR

_ways: dict[tuple[tuple[int, int], tuple[int, int]], Pixels] = {}


def resize_part(image: Image.Image, side: tuple[int, int], box: Box) -> np.ndarray:
    """What is in `box` of image.resize(side, BILINEAR), [h, w, 3] uint8. image: RGB.

    Pillow resizes along one axis, rounds, then along the other; which comes first depends on both sizes and on its version, and
    would on the box with resize(box=...). The first picture of a size shows it: it is resized whole, and in both ways.
    """
    way = _ways.get((image.size, side))
    if way is not None:
        return way(image, side, box)
    whole = _whole(image, side, box)
    equal = [one for one in (_across_first, _down_first) if np.array_equal(one(image, side, box), whole)]
    if len(equal) < 2:  # a flat picture shows nothing
        _ways[image.size, side] = equal[0] if equal else _whole
    return whole


def _whole(image: Image.Image, side: tuple[int, int], box: Box) -> np.ndarray:
    return np.asarray(image.resize(side, BILINEAR))[box[1] : box[3], box[0] : box[2]]


def _across_first(image: Image.Image, side: tuple[int, int], box: Box) -> np.ndarray:
    left, top, right, bottom = box
    start, stop = _reach(top, bottom, image.height, side[1])
    # not image.crop, which copies the rows; down, this resize is one to one
    rows = image.resize((side[0], stop - start), BILINEAR, box=(0, start, image.width, stop))
    return _down(rows.crop((left, 0, right, stop - start)), image.height, start, side[1])[top:bottom]


def _down_first(image: Image.Image, side: tuple[int, int], box: Box) -> np.ndarray:
    left, top, right, bottom = box
    start, stop = _reach(left, right, image.width, side[0])
    columns = image.resize((stop - start, side[1]), BILINEAR, box=(start, 0, stop, image.height))
    turned = columns.crop((0, top, stop - start, bottom)).transpose(Image.Transpose.TRANSPOSE)
    return _down(turned, image.width, start, side[0])[left:right].transpose(1, 0, 2)


def _down(rows: Image.Image, height: int, start: int, to: int) -> np.ndarray:
    """Rows from `start` on of a picture of that height, resized down to `to` rows, of which those are good that need no others."""
    picture = Image.new(rows.mode, (rows.width, height))  # a box of fractions would round otherwise
    picture.paste(rows, (0, start))
    return np.asarray(picture.resize((rows.width, to), BILINEAR))


def _reach(first: int, last: int, length: int, to: int) -> tuple[int, int]:
    """Of `length` pixels, those that a bilinear resize to `to` pixels makes its pixels first..last-1 from."""
    scale = length / to
    support = max(scale, 1.0)
    return max(0, floor((first + 0.5) * scale - support) - 1), min(length, ceil((last - 0.5) * scale + support) + 1)
