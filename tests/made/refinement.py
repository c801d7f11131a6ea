"""What the refinement stage's tests run on: a model of 8 channels, a pair that harmonizes, and images."""

from __future__ import annotations

from pathlib import Path

import torch

from diffharmony.diffusion import save_unet
from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.refinement import HarmonyRefinement, save_refinement
from diffharmony.tests.made.models import least_unet, vae


def small_refinement(in_channels: int = 7, **changes) -> HarmonyRefinement:
    """A model that runs at 32 x 32 and does something."""
    torch.manual_seed(0)
    config = dict(
        sample_size=32, in_channels=in_channels, block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, downsample_padding=0, attention_head_dim=None,
        norm_eps=1e-6, input_residual=True,
    )  # fmt: skip
    return HarmonyRefinement(**{**config, **changes}).eval()


def make_models(folder: Path) -> Path:
    """Write vae, unet, inverse_unet and refinement (.safetensors), with made-up weights."""
    save_harmony_vae(HarmonyVAE.from_autoencoder_kl(vae((8, 8), groups=4)), folder / "vae.safetensors", dtype=torch.float32)
    unet = least_unet()
    prompt = torch.randn(1, 77, 8)
    for name, direction in (("unet", "harmonize"), ("inverse_unet", "invert")):
        path = folder / f"{name}.safetensors"
        save_unet(unet, path, empty_prompt_embeds=prompt, direction=direction, prediction_type="v_prediction")
    save_refinement(small_refinement(), folder / "refinement.safetensors", dtype=torch.float32)
    return folder


def triple(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """harmonized, composite [B,3,H,W] in [-1,1], and a soft mask [B,1,H,W]."""
    generator = torch.Generator().manual_seed(seed)
    harmonized, composite = (torch.rand(batch, 3, height, width, generator=generator) * 2 - 1 for _ in range(2))
    mask = (torch.rand(batch, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    return harmonized, composite, mask
