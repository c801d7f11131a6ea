"""The colours that latents stand for, and how far a fitted change of light is from the right one.

A latent's four channels hold a block's mean colour almost linearly, so a linear map reads it off them: what pixels would cost a
decoder's pass, and the gradients through it, costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .losses import colour_map_loss


class ColourReadout:
    """Block colours [B,3,h,w], sRGB in about 0..1, of scaled latents [B,4,h,w]: a linear map of each latent pixel.

    weight: [3,4]. bias: [3].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        self.weight, self.bias = weight, bias

    @classmethod
    def fitted(cls, latents: torch.Tensor, colours: torch.Tensor) -> ColourReadout:
        """The least-squares map from latents [N,4,h,w] to colours [N,3,h,w].

        Raises: ValueError where latents do not tell colours (R² below 0.9): such a VAE needs its decoder for it.
        """
        rows, wanted = (values.movedim(1, -1).reshape(-1, values.shape[1]).double() for values in (latents, colours))
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        found = torch.linalg.lstsq(rows, wanted).solution
        left = (rows @ found - wanted).square().mean(dim=0) / wanted.var(dim=0, unbiased=False).clamp(min=1e-9)
        if left.max() > 0.1:
            raise ValueError(
                f"latents must tell their blocks' colours by a linear map (R² of at least 0.9) for colour_loss, got "
                f"{1 - left.max():.3f} with this VAE. Set colour_loss to 0."
            )
        return cls(found[:-1].T.float(), found[-1].float())

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.to(latents.device), self.bias.to(latents.device)
        return torch.einsum("oc,bchw->bohw", weight, latents.float()) + bias[:, None, None]


def readout_of(vae, batches: Iterable[dict[str, Any]]) -> ColourReadout:
    """The readout of a VAE's latents, fitted on the composites and real images of a few batches of images [B,3,H,W] in -1..1."""
    latents, colours = [], []
    with torch.no_grad():
        for batch in batches:
            for image in (batch["composite"], batch["real"]):
                latents.append((vae.encode(image).latent_dist.mode() * vae.config.scaling_factor).cpu())
                factor = image.shape[-1] // latents[-1].shape[-1]
                colours.append(torch.nn.functional.avg_pool2d(image.cpu() / 2 + 0.5, factor))
    return ColourReadout.fitted(torch.cat(latents), torch.cat(colours))


def clean_colour_loss(
    readout: ColourReadout, clean: torch.Tensor, target: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """`colour_map_loss` [B] of predicted clean latents beside the target's, both [B,4,h,w], scaled, under the condition's."""
    return colour_map_loss(*(readout(latent) for latent in (clean, target, condition)), mask)
