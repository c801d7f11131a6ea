"""The committed tiny models in a real ComfyUI, on the demo's photograph."""

from __future__ import annotations

import pytest
from PIL import Image

from diffharmony.evaluation import measure
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.tests.host.comfy_server import REPOSITORY
from diffharmony.tests.host.prompts import changed, harmonize
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, difference, library_decode, pixels, saved_latent, with_latent

TINY, DEMO = REPOSITORY / "assets" / "tiny", REPOSITORY / "assets" / "demo"
VAE, UNET = TINY / "harmony_vae.safetensors", TINY / "harmonization_unet.safetensors"


@pytest.fixture
def tiny(server):
    """The workflow with the tiny models and the demo's pictures."""
    return harmonize(
        composite=server.add_input(DEMO / "composite.png", "demo_composite.png"),
        mask=server.add_input(DEMO / "mask.png", "demo_mask.png"),
        vae=server.add_model("vae", VAE, "tiny_vae.safetensors"),
        unet=server.add_model("diffusion_models", UNET, "tiny_unet.safetensors"),
    )


def test_images_are_the_librarys_own(server, run, tiny):
    result = run(with_latent(changed(tiny, decode={"paste_background": False})))
    latent = saved_latent(server, result)
    expected = library_decode(load_harmony_vae(VAE), latent, pixels(DEMO / "composite.png"), pixels(DEMO / "mask.png", 1))
    assert difference(result.images["conditional"][0], as_picture(expected)) <= TOLERANCE


def test_the_demos_photograph_gets_closer_to_the_real_one(run, tiny):
    harmonized = Image.fromarray(run(tiny).images["conditional"][0])
    real, mask, composite = (Image.open(DEMO / f"{name}.png") for name in ("real", "mask", "composite"))
    before, after = (measure(picture, real, mask, size=None, real_background=False) for picture in (composite, harmonized))
    assert after.fmse < 0.75 * before.fmse
