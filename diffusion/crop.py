"""Crops around small foregrounds: a model then works at a size at which it sees them (SPEC §9 calls them its weak spot)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from ..common.images import paste_background
from ..common.masks import THRESHOLD, check_image, check_mask, check_size, same_batch

CropOption = float | Literal["auto"] | None
CONTEXT, SMALL_SHARE = 2.0, 0.05  # measured: docs/results.md
LARGEST_CONTEXT = 10.0
SMALLEST_SIDE = 64
FAINT = 0.05  # what a mask marks less counts neither to a foreground nor to its extent
CELLS = 256  # of the longer side: parts that are nearer than about a cell are one
MOST_PARTS = 64  # a mask of more is taken whole

Box = tuple[int, int, int, int]  # top, left, bottom, right


class Crop(NamedTuple):
    """A window of image `index` of a batch [B, C, H, W], in pixels."""

    index: int
    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> the window of it, [1, C, height, width], a view."""
        return pixels[self.index : self.index + 1, :, self.top : self.top + self.height, self.left : self.left + self.width]


def crop_foregrounds(mask: torch.Tensor, context: float = CONTEXT, smallest: int = SMALLEST_SIDE) -> list[Crop]:
    """Windows around the foregrounds, the largest first: square, unless the image is too narrow, and wholly inside it.

    mask: [B, 1, H, W], 0..1. context: the window's side as a multiple of the foreground's longer side, 1..10. smallest: the least side
    in pixels; smaller than a model works at, a window would be enlarged, which adds no detail and takes background away. Foregrounds of which
    one reaches into the other's window share one; others get one each. An image without foreground gets none.
    Raises: ValueError for other shapes, ranges or options.
    """
    check_mask(mask)
    check_crop(context)
    return [crop for index in range(len(mask)) for crop in _of_one(mask[index, 0].float(), index, float(context), smallest)]


def stitch_crops(original: torch.Tensor, mask: torch.Tensor, crops: Sequence[Crop], results: Sequence[torch.Tensor]) -> torch.Tensor:
    """The images with the results laid into their windows, blended by the mask: [B, 3, H, W], bit for bit the original's where it is 0.

    original: [B, 3, H, W], floating. mask: [B or 1, 1, H, W], 0..1. results: one [1, 3, height, width] for each crop.
    Raises: ValueError for shapes that do not fit.
    """
    check_image(original, "original")
    check_size("mask", mask, "original", original)
    original, mask = same_batch({"original": original, "mask": mask})
    stitched = original.clone()
    for crop, result in zip(crops, results, strict=True):
        window = crop.of(stitched)
        if result.shape != window.shape:
            raise ValueError(
                f"result must have its crop's shape {list(window.shape)}, got {list(result.shape)}. Bring it to that size, with 'Transfer Harmony' say."
            )
        window.copy_(paste_background(result.to(window.device), window, crop.of(mask)))
    return stitched


def planned_crops(mask: torch.Tensor, crop: CropOption, paste_background: bool, smallest: int = SMALLEST_SIDE) -> list[Crop]:
    """The windows to harmonize one by one, by an option of `harmonize`; none where the images are to be taken whole.

    Raises: ValueError for an option that does not fit.
    """
    if crop is None or (crop == "auto" and not paste_background):
        return []
    check_crop(crop)
    if not paste_background:
        raise ValueError(f"crop must be None or 'auto' where the background changes too, got {crop!r}. Set paste_background.")
    height, width = mask.shape[-2:]
    if crop != "auto":
        return crop_foregrounds(mask, crop, smallest)
    crops = []
    for index, share in enumerate((mask >= THRESHOLD).float().mean(dim=(1, 2, 3)).tolist()):
        found = crop_foregrounds(mask[index : index + 1], CONTEXT, smallest) if share < SMALL_SHARE else []
        crops += [one._replace(index=index) for one in found or [Crop(index, 0, 0, height, width)]]
    return crops if any((one.height, one.width) != (height, width) for one in crops) else []


def check_crop(crop: CropOption) -> None:
    """Raises: ValueError for anything but a context factor or "auto"."""
    number = isinstance(crop, (int, float)) and not isinstance(crop, bool)
    if crop != "auto" and not (number and 1 <= crop <= LARGEST_CONTEXT):
        raise ValueError(
            f"crop must be a context factor in 1..{LARGEST_CONTEXT:g}, 'auto' or None, got {crop!r}. "
            f"{CONTEXT:g} makes a window that many times as long as the foreground."
        )


def _of_one(mask: torch.Tensor, index: int, context: float, smallest: int) -> list[Crop]:
    height, width = mask.shape
    boxes = _parts(mask)
    merged = True
    while merged:
        merged = False
        for one in range(len(boxes)):
            window = _window(boxes[one], context, smallest, height, width)
            other = next((n for n in range(len(boxes)) if n != one and _overlap(window, boxes[n])), None)
            if other is not None:
                boxes[one] = _around(boxes[one], boxes[other])
                del boxes[other]
                merged = True
                break
    boxes.sort(key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    windows = (_window(box, context, smallest, height, width) for box in boxes)
    return [Crop(index, top, left, bottom - top, right - left) for top, left, bottom, right in windows]


def _parts(mask: torch.Tensor) -> list[Box]:
    """The boxes of a mask's [H, W] connected parts, found on a coarse grid."""
    from scipy import ndimage

    height, width = mask.shape
    cell = math.ceil(max(height, width) / CELLS)
    coarse = F.max_pool2d(mask[None], cell, ceil_mode=True)[0].cpu().numpy()
    labels, count = ndimage.label(coarse > FAINT, structure=[[1, 1, 1]] * 3)
    if not count:
        return []
    strongest = ndimage.maximum(coarse, labels, range(1, count + 1))
    places = [place for place, most in zip(ndimage.find_objects(labels), strongest, strict=True) if most >= THRESHOLD]
    boxes = [(rows.start * cell, columns.start * cell, min(rows.stop * cell, height), min(columns.stop * cell, width)) for rows, columns in places]
    if len(boxes) <= MOST_PARTS:
        return boxes
    top, left, bottom, right = zip(*boxes, strict=True)
    return [(min(top), min(left), max(bottom), max(right))]


def _window(box: Box, context: float, smallest: int, height: int, width: int) -> Box:
    side = max(smallest, math.ceil(context * max(box[2] - box[0], box[3] - box[1])))
    spans = []
    for start, stop, length in ((box[0], box[2], height), (box[1], box[3], width)):
        span = min(side, length)
        first = min(max(0, (start + stop - span) // 2), length - span)
        spans.append((first, first + span))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _around(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
