"""Where two images differ, made visible."""

from __future__ import annotations

import math

import torch

from ..common.masks import check_image, check_size, same_batch


def difference_view(image: torch.Tensor, reference: torch.Tensor, gain: float = 4.0, *, signed: bool = False) -> torch.Tensor:
    """The difference of images, channel by channel, times `gain`: [B, 3, H, W] float32, -1..1.

    image, reference: [B or 1, 3, H, W], floating, -1..1. gain: how many times as large; what it takes beyond white or black is cut.
    signed: False shows how much: black where both are equal. True shows which way: grey where equal, brighter where `image` is brighter.
    Raises: ValueError for shapes that do not fit, or a gain that is not a number above 0.
    """
    check_image(image, "image")
    check_image(reference, "reference")
    check_size("reference", reference, "image", image)
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain must be a number above 0, got {gain!r}. 1 shows the difference as large as it is.")
    image, reference = same_batch({"image": image.float(), "reference": reference.float().to(image.device)})
    change = (image - reference) * gain
    return (change if signed else change.abs() - 1).clamp(-1, 1)
