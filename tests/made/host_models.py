"""Small models with random weights and pictures to match, so that host tests need no trained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffharmony.tests.host.comfy_server import PAINTED, save_painted
from diffharmony.tests.made.clip import CLIP, MATTE, save_clip

WIDTHS = (32, 32, 64, 96)
HEIGHT, WIDTH = 96, 128


def make_models(folder: Path) -> None:
    """Write harmony_vae, plain_vae, inverse_harmony_vae, broken_vae (overflows), harmonization_unet (v-prediction), inverse_unet,
    harmony_classifier and crop_classifier (needs a mask) (.safetensors) into `folder`."""
    from diffharmony.classifier.checkpoint import save_harmony_classifier
    from diffharmony.classifier.model import HarmonyClassifier
    from diffharmony.common.checkpoint import write_checkpoint
    from diffharmony.diffusion import save_unet
    from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
    from diffharmony.tests.made.models import unet as make_unet
    from diffharmony.tests.made.models import vae as make_vae

    plain = make_vae(WIDTHS, groups=8)  # groups: not what the host builds in, and nothing that shapes show
    write_checkpoint(folder / "plain_vae.safetensors", plain.state_dict(), kind="autoencoder", config={})
    vae = HarmonyVAE.from_autoencoder_kl(plain)
    # At initialisation the condition has no effect; a host that dropped it would go unseen.
    for name, parameter in vae.named_parameters():
        if "skip_conv" in name or "add_conv_in" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_harmony_vae(vae, folder / "harmony_vae.safetensors", dtype=torch.float32)
    save_harmony_vae(vae, folder / "inverse_harmony_vae.safetensors", direction="invert", dtype=torch.float32)
    broken = {name: torch.full_like(value, 3e38) if name == "latent_skip_conv.bias" else value for name, value in vae.state_dict().items()}
    write_checkpoint(folder / "broken_vae.safetensors", broken, kind="harmony_vae", config=_config_of(vae), direction="harmonize")
    unet = make_unet(context=32, seed=None)
    prompt = torch.randn(1, 77, 32)
    for name, direction in (("harmonization_unet", "harmonize"), ("inverse_unet", "invert")):
        path = folder / f"{name}.safetensors"
        save_unet(unet, path, empty_prompt_embeds=prompt, direction=direction, prediction_type="v_prediction")
    for name, crop in (("harmony_classifier", False), ("crop_classifier", True)):
        classifier = HarmonyClassifier(backbone="small", input_size=64, widths=(8, 16), crop=crop)
        torch.nn.init.normal_(classifier.probe[-1].weight, std=0.1)  # scores that are neither alike nor all 0 or 1
        save_harmony_classifier(classifier, folder / f"{name}.safetensors", dtype=torch.float32)


def _config_of(vae) -> dict:
    return {name: value for name, value in vae.config.items() if not name.startswith("_")}


def make_pictures(folder: Path) -> None:
    """Write the pictures that the tests load into `folder`."""
    generator = np.random.default_rng(0)
    picture = _picture(generator, HEIGHT, WIDTH)
    mask = _ellipse(HEIGHT, WIDTH)
    for name in ("composite", "real"):  # what the workflows load
        Image.fromarray(picture).save(folder / f"{name}.png")
    Image.fromarray(_picture(generator, HEIGHT, WIDTH)).save(folder / "second.png")
    Image.fromarray(np.dstack([picture, np.full_like(mask, 200)])).save(folder / "rgba.png")
    Image.fromarray(_picture(generator, 75, 101)).save(folder / "odd.png")
    Image.fromarray(_ellipse(75, 101)).save(folder / "odd_mask.png")
    Image.fromarray(mask).save(folder / "mask.png")
    save_painted(folder / "composite.png", folder / "mask.png", folder / f"{PAINTED}.png")
    Image.fromarray(_picture(generator, HEIGHT, WIDTH)).save(folder / "background.jpg")
    cutout = Image.fromarray(picture)
    cutout.putalpha(Image.fromarray(mask))
    cutout.save(folder / "cutout.png")
    save_clip(folder / "composite.png", folder / CLIP)
    save_clip(folder / "mask.png", folder / MATTE)
    Image.fromarray(mask).resize((37, 51), Image.Resampling.BILINEAR).save(folder / "small_mask.png")
    Image.fromarray(np.zeros_like(mask)).save(folder / "empty_mask.png")
    Image.fromarray(np.full_like(mask, 255)).save(folder / "full_mask.png")


def _picture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.where(((y / height - 0.5) / 0.3) ** 2 + ((x / width - 0.4) / 0.25) ** 2 < 1, 255, 0).astype(np.uint8)
