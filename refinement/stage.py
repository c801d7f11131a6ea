"""refine(): the refinement stage on images of any size."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..common.images import paste_background as paste
from ..common.images import resize_values
from ..common.masks import binarize_mask, check_batch, check_image, check_image_and_mask, check_range, check_size
from .model import HarmonyRefinement

Progress = Callable[[int, int], None]


@torch.no_grad()
def refine(
    model: HarmonyRefinement,
    harmonized: torch.Tensor,
    composite: torch.Tensor,
    mask: torch.Tensor,
    *,
    paste_background: bool = False,
    keep_detail: bool = True,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Run the refinement stage on harmonized images, at its own fixed size.

    harmonized: [B, 3, H, W], floating, -1..1: the decoded image, best before a background is pasted, which is what the stage was
    trained on. composite: [B or 1, 3, H, W]. mask: [B or 1, 1, H, W], 0..1; the model sees it binarized.
    The images are stretched to the stage's size (256 x 256), whatever their shape, as the authors do, whose result is of that
    size and is what `keep_detail=False` enlarges. keep_detail: for images of another size bring the stage's *change* (its output
    minus its input) to their size and add it, which keeps the detail that 256 px cannot hold. The two are one at 256 x 256.
    paste_background: blend by the mask over the composite; pixels whose mask is 0 are then the composite's, bit for bit.
    device: where to compute; None is where the model is. progress: called with (images done, images). One image is computed at a
    time, in the model's dtype.
    Returns: [B, 3, H, W] in -1..1, the dtype and device of `harmonized` (of `composite` where pasted).
    Raises: ValueError for shapes or ranges that do not fit; RuntimeError when half precision overflowed.
    Source: SPEC §9 (the refinement rows), §10.
    """
    harmonized, composite, mask = _same_batch(harmonized, composite, mask)
    device = torch.device(device) if device is not None else model.device
    results = []
    for index in range(harmonized.shape[0]):
        one = slice(index, index + 1)
        results.append(_refine_one(model, harmonized[one], composite[one], mask[one], keep_detail, device))
        if progress is not None:
            progress(index + 1, harmonized.shape[0])
    refined = torch.cat(results)
    if paste_background:
        return paste(refined.to(composite.device), composite, mask)
    return refined.to(harmonized.dtype)


def to_stage_size(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Stretch [B, C, H, W] in [-1, 1] to (height, width) as the stage's input is: bilinear with antialias, float32."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image.float()
    return F.interpolate(image.float(), size=tuple(size), mode="bilinear", antialias=True).clamp(-1, 1)


def mask_to_stage_size(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Binarize a mask [B, 1, H, W] at its own size, then take the nearest pixel, as Pillow resizes a black and white picture."""
    return F.interpolate(binarize_mask(mask).float(), size=tuple(size), mode="nearest-exact")


def _refine_one(
    model: HarmonyRefinement, harmonized: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor, keep_detail: bool, device: torch.device
) -> torch.Tensor:
    small = to_stage_size(harmonized.to(device), model.size)
    small_composite = to_stage_size(composite.to(device), model.size)
    small_mask = mask_to_stage_size(mask.to(device), model.size)
    refined = model(model.stack(*(part.to(model.dtype) for part in (small, small_composite, small_mask)))).sample.float()
    if not torch.isfinite(refined).all():
        raise RuntimeError(f"refined image must be finite, got NaN or infinity in {model.dtype}. Use float32 or bfloat16.")
    refined = refined.clamp(-1, 1)
    size = harmonized.shape[-2:]
    if tuple(size) == model.size:
        return refined.to(harmonized.device)
    if keep_detail:
        change = resize_values(refined - small, size).to(harmonized.device)
        return (harmonized.float() + change).clamp(-1, 1)
    return resize_values(refined, size).clamp(-1, 1).to(harmonized.device)


def _same_batch(harmonized: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    check_image(harmonized, "harmonized")
    composite, mask = check_image_and_mask(composite, mask)
    check_size("harmonized", harmonized, "composite", composite)
    for name, image in (("harmonized", harmonized), ("composite", composite)):
        check_range(image, name)
    batch = harmonized.shape[0]
    check_batch("composite and mask", composite.shape[0], batch)
    return harmonized, composite.expand(batch, -1, -1, -1), mask.expand(batch, -1, -1, -1)
