"""Latents computed once: what the UNet trains on when the VAE's encoder would cost more than the UNet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ...common.direction import condition_and_target
from ...common.masks import mask_to_latent
from .cached import CachedDataset, Views, cached, crop_settings, files_of
from .dataset import HarmonizationDataset


def cache_latents(
    vae, dataset: HarmonizationDataset, *, views: int, direction: str, folder: Path, seed: int, device: torch.device, batch_size: int = 16
) -> CachedDataset:
    """Encode `views` crops of every pair at `data.size`, or read them from `folder` where the same call wrote them before.

    Samples have condition_latent, target_latent [4,h,w] (scaled), mask_latent [1,h,w] in {0,1}.
    """
    path = folder / f"latents-{_fingerprint(vae, dataset, views, direction)}.safetensors"
    vae.to(device, memory_format=torch.channels_last).eval()  # encodes small images a third faster on a CPU

    def encode(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        latents = [_encoded(vae, image) for image in condition_and_target(batch, direction)]
        mask = mask_to_latent(batch["mask"], latents[0].shape[2:])
        return {"condition_latent": latents[0], "target_latent": latents[1], "mask_latent": mask}

    return cached(path, Views(dataset, views), encode, seed=seed, device=device, batch_size=batch_size)


def _encoded(vae, images: torch.Tensor) -> torch.Tensor:
    """Scaled latents of images, of which those that come several times in a row (one real image's composites) are encoded once."""
    different, of = torch.unique_consecutive(images, dim=0, return_inverse=True)
    return (vae.encode(different).latent_dist.mode() * vae.config.scaling_factor)[of]


def _fingerprint(vae, dataset: HarmonizationDataset, views: int, direction: str) -> str:
    """What the latents depend on: E with its quant_conv and scale, the images' files, and how they are cut."""
    weights = hashlib.sha256()
    parts = [vae.encoder] if vae.quant_conv is None else [vae.encoder, vae.quant_conv]
    for tensor in (tensor for part in parts for tensor in part.state_dict().values()):
        weights.update(tensor.cpu().float().numpy().tobytes())
    text = json.dumps([crop_settings(dataset), dataset.seed, views, direction, vae.config.scaling_factor, files_of(dataset)])
    return hashlib.sha256(text.encode() + weights.digest()).hexdigest()[:16]
