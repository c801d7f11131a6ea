"""A small trained Harmony-VAE, the plain VAE that it was made of, and a UNet."""

import pytest
import torch

from diffharmony.harmony_vae import HarmonyVAE
from diffharmony.tests.made import models

WIDTHS = (8, 16, 16, 16)


@pytest.fixture(scope="module")
def plain_vae():
    return models.vae(WIDTHS, groups=4)


@pytest.fixture(scope="module")
def vae(plain_vae):
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a trained one: its zero convolutions are not zero
        for name, parameter in vae.named_parameters():
            if "skip_conv" in name or "add_conv_in" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return vae


@pytest.fixture(scope="module")
def unet():
    unet = models.unet(widths=(8, 8), context=8, seed=2, groups=4, heads=2)
    unet.empty_prompt_embeds = torch.randn(1, 77, 8)
    unet.direction, unet.prediction_type = "harmonize", "v_prediction"
    return unet
