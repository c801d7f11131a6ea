"""How far candidates are from the real image that they were made of."""

from __future__ import annotations

import torch

from ..common.masks import binarize_mask, check_foreground, check_image, check_image_and_mask


def distances_from_real(candidates: torch.Tensor, real: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared difference inside the mask (fMSE), of values 0..255: [K] float32.

    candidates: [K,3,H,W], real: [1,3,H,W], floating, -1..1. mask: [1,1,H,W] in 0..1, binarised at 0.5.
    Raises: ValueError for shapes that do not fit, or a mask without foreground. Source: SPEC §8.
    """
    check_image(candidates, "candidates")
    real, mask = check_image_and_mask(real, mask, "real")
    if real.shape[0] != 1 or candidates.shape[-2:] != real.shape[-2:]:
        raise ValueError(
            f"candidates must be of one real image's size, {list(real.shape)}, got {list(candidates.shape)}. "
            "Pass the image that they were made of."
        )
    check_foreground(mask, "Pass the mask that the candidates were made with.")
    inside = binarize_mask(mask)[0, 0] > 0
    difference = (candidates.float() - real.float())[..., inside] * 127.5
    return difference.square().mean(dim=(1, 2))
