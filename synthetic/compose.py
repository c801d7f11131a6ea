"""A cut-out placed on a background: a composite and its mask, ready to be harmonized."""

from __future__ import annotations

import math
import os

import torch
import torch.nn.functional as F

from ..common.images import blur, load_image, open_image, paste_background, pil_to_tensor, resize_image, resize_mask
from ..common.masks import THRESHOLD, check_foreground, check_image, check_image_and_mask, check_size, same_batch
from .foreground import estimate_foreground

SURROUNDINGS = 8  # pixels around the cut-out that show what the old background was
LARGEST_SCALE = 4.0
EMPTY_CUTOUT = "Pass the cut-out's own transparency, or a mask whose white is what stays."


def compose_foreground(
    foreground: torch.Tensor,
    alpha: torch.Tensor,
    background: torch.Tensor,
    *,
    x: float | None = 0.5,
    y: float | None = 0.5,
    scale: float = 0.0,
    feather: float = 0.0,
    decontaminate: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place cut-outs on backgrounds: composites and their masks, of the backgrounds' size.

    foreground: [B or 1, 3, h, w], floating, -1..1. alpha: [B or 1, 1, h, w], 0..1, 1 = stays. background: [B or 1, 3, H, W], floating, -1..1.
    x, y: where the middle of the object lies, as a share of the background's width and height: 0 is the left and upper edge, 1 the right and
    lower; both None: it stays where it lies in its own picture, a layer of the background's size. The object is the box of what alpha marks by
    at least 0.5. scale: the object's height as a share of the background's, up to 4; 0
    keeps its pixels as they are. feather: softens the edge over about so many pixels of the background, half inwards and half outwards.
    decontaminate: replace the colour of soft edges, which the old background shines through, by the foreground's own.
    What lies outside the background is cut off.
    Returns: composite [B, 3, H, W], the background's dtype and device, its own pixels bit for bit where the mask is 0; mask [B, 1, H, W]
    float32, 0..1. Raises: ValueError for shapes, ranges or options that do not fit, and for an object that lies wholly outside.
    """
    _check_options(x, y, scale, feather)
    foreground, alpha = check_image_and_mask(foreground, alpha, "foreground")
    check_image(background, "background")
    if x is None:
        check_size("foreground", foreground, "background", background, "Give x and y to place it.")
    foreground, alpha, background = same_batch(
        {"foreground": foreground.to(background.device), "alpha": alpha.to(background.device), "background": background}
    )
    composite, mask = background.clone(), background.new_zeros(len(background), 1, *background.shape[-2:], dtype=torch.float32)
    for index in range(len(background)):
        one = slice(index, index + 1)
        check_foreground(alpha[one], EMPTY_CUTOUT, "alpha")
        _place(foreground[one], alpha[one], composite[one], mask[one], None if x is None else (x, y), scale, feather, decontaminate)
    return composite, mask


def load_cutout(path: str | os.PathLike, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a cut-out file: its colours [1, 3, H, W] float32 in [-1, 1] and its transparency as alpha [1, 1, H, W] float32 in [0, 1].

    mask: [1, 1, H, W], 0..1, 1 = stays, for a picture without transparency; of one with it both count.
    Raises: FileNotFoundError, ValueError as `common.images.load_image`, and ValueError for a picture without transparency and mask, or a mask of
    another size.
    """
    picture = open_image(path)
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    alpha = picture.convert("RGBA").getchannel("A") if transparent else None
    if mask is None and (alpha is None or alpha.getextrema() == (255, 255)):
        raise ValueError(f"{path} must have transparency around the object, got a picture without. Pass its mask as well, or save the cut-out as PNG.")
    colour = load_image(path) if alpha is None else pil_to_tensor(picture.convert("RGBA"))
    alphas = [] if alpha is None else [pil_to_tensor(alpha)[:, :1] / 2 + 0.5]
    if mask is not None:
        check_size("mask", mask, str(path), colour)
        alphas.append(mask)
    return colour, torch.stack(alphas).prod(dim=0)


def _check_options(x: float | None, y: float | None, scale: float, feather: float) -> None:
    if (x is None or y is None) and not (x is y and scale == 0):
        raise ValueError(f"x and y must be numbers, or both None with scale 0, got {x!r}, {y!r}, scale {scale!r}. 0.5 is the middle of the background.")
    for name, value in (("x", x), ("y", y)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}. 0.5 is the middle of the background.")
    if not 0 <= scale <= LARGEST_SCALE:
        raise ValueError(f"scale must lie in 0..{LARGEST_SCALE:g}, got {scale!r}. 0 keeps the cut-out's size; 0.5 is half the background's height.")
    if not (feather >= 0 and math.isfinite(feather)):
        raise ValueError(f"feather must be at least 0 pixels, got {feather!r}. 0 leaves the edge as it is.")


def _place(
    foreground: torch.Tensor, alpha: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor, place: tuple[float, float] | None,
    scale: float, feather: float, decontaminate: bool,
) -> None:  # fmt: skip
    """Write one cut-out into one composite and its mask, which are views."""
    top, bottom, left, right = _box(alpha > 0, SURROUNDINGS)
    colour, alpha = (values[..., top:bottom, left:right] for values in (foreground.float(), alpha))
    colour = estimate_foreground(colour, alpha) if decontaminate else colour
    object_box = _box(alpha >= THRESHOLD)
    height, width = composite.shape[-2:]
    factor = scale * height / (object_box[1] - object_box[0]) if scale else 1.0
    size = tuple(max(1, round(side * factor)) for side in alpha.shape[-2:])
    starts = [top, left]
    if place is not None:
        # where the object's middle lies within what is placed, and so where that begins
        middles = [(sum(object_box[2 * axis : 2 * axis + 2])) / 2 * size[axis] / alpha.shape[2 + axis] for axis in (0, 1)]
        starts = [round(share * side - middle) for share, side, middle in zip(place[::-1], (height, width), middles, strict=True)]
    colour, alpha = resize_image(colour, size), resize_mask(alpha, size)

    margin = math.ceil(3 * feather / 2)
    reached = list(zip(starts, size, (height, width), strict=True))
    shown = None
    if all(start < side and start + length > 0 for start, length, side in reached):
        rows, columns = (slice(max(0, start - margin), min(start + length + margin, side)) for start, length, side in reached)
        pads = [
            pad for (start, length, _), part in zip(reached[::-1], (columns, rows), strict=True) for pad in (start - part.start, part.stop - start - length)
        ]
        shown = F.pad(alpha, pads)
        if margin:
            shown = blur(F.pad(shown, (margin,) * 4, mode="replicate"), feather / 2)[..., margin:-margin, margin:-margin].clamp(0, 1)
    if shown is None or not (shown >= THRESHOLD).any():
        where = "where it lies" if place is None else f"around x {place[0]:g}, y {place[1]:g}"
        raise ValueError(
            f"foreground must lie at least partly on the background, got {size[1]} x {size[0]} px {where} of "
            f"{width} x {height} px. Move x and y toward 0.5, or make scale larger."
        )
    mask[..., rows, columns] = shown
    behind = composite[..., rows, columns]
    behind.copy_(paste_background(_spread(colour, pads), behind, shown))


def _spread(colour: torch.Tensor, pads: list[int]) -> torch.Tensor:
    """Cut where a pad is negative, else continue with the colours of the edge."""
    cut = F.pad(colour, [min(0, pad) for pad in pads])
    return F.pad(cut, [max(0, pad) for pad in pads], mode="replicate")


def _box(inside: torch.Tensor, margin: int = 0) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is True in [1, 1, H, W], and a margin around it."""
    found = []
    for axis in (2, 3):
        places = inside[0, 0].any(dim=3 - axis).nonzero()
        found += [max(0, int(places[0]) - margin), min(inside.shape[axis], int(places[-1]) + 1 + margin)]
    return tuple(found)
