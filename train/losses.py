"""Losses as small callables."""

from __future__ import annotations

import torch


def reconstruction_loss(kind: str):
    """`squared` (SPEC eq. 2, the paper) or `l1` (the authors' code): (prediction, target) [B,3,H,W] -> scalar.

    Raises: ValueError for another kind.
    """
    kinds = {"squared": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
    if kind not in kinds:
        raise ValueError(f"loss must be one of {', '.join(kinds)}, got {kind!r}. Pass one of these.")
    return kinds[kind]


def diffusion_loss(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, *, foreground_weighted: bool, background_weight: float = 0.0
) -> torch.Tensor:
    """Squared error of the UNet's output, weighted to the foreground or plain.

    prediction, target: [B,4,h,w]. mask: [B,1,h,w] in {0,1}. Weighted: per sample and channel, the mean over pixels of
    weight * error², times clamp(hw / Σmask, 1, 5), then the mean. The weight is 1 in the foreground and `background_weight`
    outside (0 in the authors' code). Source: SPEC §2, eq. 1 and the weighting below it.
    """
    squared = (prediction.float() - target.float()).square()
    if not foreground_weighted:
        return squared.mean()
    pixels = mask.shape[-2] * mask.shape[-1]
    factor = (pixels / mask.sum(dim=(1, 2, 3)).clamp(min=1e-6)).clamp(1.0, 5.0)
    weight = mask + background_weight * (1 - mask)
    return ((weight * squared).mean(dim=(2, 3)) * factor[:, None]).mean()
