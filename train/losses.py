"""Losses as small callables."""

from __future__ import annotations

import torch

ERRORS = {"squared": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
COMMON_FMSE = 1000.0  # of a composite that one sees at once


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


def colour_map_loss(
    predicted: torch.Tensor, real: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor, *, ridge: float = 0.01, floor: float = 100.0,
    power: float = 0.5,
) -> torch.Tensor:  # fmt: skip
    """The error that a predicted change of light leaves, relative to the composite's: [B], 0 for none; 1 for no change of a composite
    whose fMSE is COMMON_FMSE.

    The prediction counts only by the affine map of linear light that takes the composite's foreground nearest to it, with a ridge
    toward no change; the error is that of the composite under this map, in sRGB, over the composite's own and a floor. So noise and
    detail cost nothing, and mild changes count like strong ones.

    predicted, real, composite: [B,3,h,w] sRGB in about 0..1. mask: [B,1,h,w] in 0..1, with some foreground. ridge: share of a
    pixel's weight for each of the foreground's. power: 0 measures errors as they are, strong changes for most of it; 1 in parts of the
    composite's fMSE plus `floor` (squared 8-bit levels), a mild change like a strong one.
    """
    weight = mask.flatten(2)  # [B,1,N]
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    before, after, wanted = (_to_linear(values).flatten(2) for values in (composite, predicted, real))  # [B,3,N]
    light = torch.cat([before, torch.full_like(before[:, :1], 0.25)], dim=1)  # [B,4,N]; 0.25: an offset costs like a typical gain
    weighted = light * weight
    normal = weighted @ light.transpose(1, 2)
    normal = normal + ridge * light.square().mean(dim=(1, 2))[:, None, None] * torch.eye(4, device=light.device)
    change = torch.linalg.solve(normal, weighted @ (after - before).transpose(1, 2))  # [B,4,3]
    mapped = before + change.transpose(1, 2) @ light
    error, own = (
        (255**2 * (_from_linear(values) - real.flatten(2)).square() * weight).sum(dim=-1).mean(dim=1) for values in (mapped, before)
    )
    return error / (own.detach() + floor) ** power / COMMON_FMSE ** (1 - power)


def _to_linear(colours: torch.Tensor) -> torch.Tensor:
    """sRGB to linear light, its derivative finite everywhere."""
    colours = colours.float().clamp(min=0)
    return torch.where(colours <= 0.04045, colours / 12.92, ((colours.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def _from_linear(light: torch.Tensor) -> torch.Tensor:
    """Linear light to sRGB, its derivative finite everywhere; straight below 0, so that too dark a prediction is pulled up."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.003) ** (1 / 2.4) - 0.055)
