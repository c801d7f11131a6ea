"""Losses as small callables."""

from __future__ import annotations

import torch

ERRORS = {"squared": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}


def foreground_mean(error: torch.Tensor, mask: torch.Tensor, background_weight: float = 0.0) -> torch.Tensor:
    """Mean of `error` [B,C,H,W], weighted to the foreground of `mask` [B,1,H,W] in {0,1}: per sample and channel the mean over
    pixels of weight * error, times clamp(HW / Σmask, 1, 5), then the mean. The weight is 1 in the foreground and
    `background_weight` outside (0 in the authors' code). Source: SPEC §2, the weighting below eq. 1.
    """
    pixels = mask.shape[-2] * mask.shape[-1]
    factor = (pixels / mask.sum(dim=(1, 2, 3)).clamp(min=1e-6)).clamp(1.0, 5.0)
    weight = mask + background_weight * (1 - mask)
    return ((weight * error).mean(dim=(2, 3)) * factor[:, None]).mean()


def reconstruction_loss(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, *, kind: str, foreground_weight: float = 0.0):
    """Error of decoded images: `squared` (SPEC eq. 2, the paper) or `l1` (the authors' code), the plain mean and, where
    `foreground_weight` is not 0, that many times the foreground's.

    prediction, target: [B,3,H,W] in about [-1,1]. mask: [B,1,H,W] in {0,1}. Raises: ValueError for another kind.
    """
    if kind not in ERRORS:
        raise ValueError(f"loss must be one of {', '.join(ERRORS)}, got {kind!r}. Pass one of these.")
    error = ERRORS[kind](prediction.float(), target.float(), reduction="none")
    loss = error.mean()
    return loss + foreground_weight * foreground_mean(error, mask) if foreground_weight else loss


def diffusion_loss(error: torch.Tensor, mask: torch.Tensor, *, foreground_weighted: bool, background_weight: float = 0.0) -> torch.Tensor:
    """Squared error of the UNet's output, weighted to the foreground or plain.

    error: [B,4,h,w], prediction minus what it should be. mask: [B,1,h,w] in {0,1}. Source: SPEC §2, eq. 1 and the weighting
    below it.
    """
    squared = error.float().square()
    return foreground_mean(squared, mask, background_weight) if foreground_weighted else squared.mean()
