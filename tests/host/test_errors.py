"""What a user reads when something does not fit."""

from __future__ import annotations

import pytest

from diffharmony.tests.host.comfy_server import DEMO
from diffharmony.tests.host.prompts import added, changed, harmonize, node, without


@pytest.fixture(scope="module")
def wrong_files(server, made):
    """Models in folders of other kinds, and a file that is cut off."""
    server.add_model("vae", made / "harmonization_unet.safetensors")
    server.add_model("diffusion_models", made / "harmony_vae.safetensors")
    whole = (made / "harmony_vae.safetensors").read_bytes()
    (server.base / "models" / "vae" / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(("files", "messages"), [
    ({"vae": "plain_vae.safetensors"}, ("must be a Harmony-VAE", "got a plain VAE")),
    ({"vae": "harmonization_unet.safetensors"}, ("must be a Harmony-VAE", "got a UNet")),
    ({"unet": "harmony_vae.safetensors"}, ("must be a UNet", "got a Harmony-VAE (pass it as the VAE)")),
    ({"vae": "damaged.safetensors"}, ("damaged",)),
    ({"vae": "nowhere.safetensors"}, ("nowhere.safetensors",)),
    ({"unet": "inverse_unet.safetensors"}, ("inverse_unet.safetensors must be of direction 'harmonize', got 'invert'",)),
    ({"vae": "inverse_harmony_vae.safetensors"}, ("vae must be a Harmony-VAE of direction 'harmonize', as the UNet is, got 'invert'",)),
    ({"mask": "empty_mask.png"}, ("mask must have foreground (white", "Load Image (as Mask)")),
], ids=str)  # fmt: skip
def test_a_file_that_does_not_serve(wrong_files, error_of, files, messages):
    error = error_of(harmonize(**files))
    assert all(message in error for message in messages), error


OTHERS = {
    "pixels": node("VAELoader", vae_name="pixel_space"),
    "second": node("LoadImage", image="second.png"),
    "both": node("ImageBatch", image1=["composite", 0], image2=["second", 0]),
    "large": node("EmptyLatentImage", width=256, height=256, batch_size=1),
    "three": node("EmptyLatentImage", width=128, height=96, batch_size=3),
    "sd3": node("EmptySD3LatentImage", width=128, height=96, batch_size=1),
}


@pytest.mark.parametrize(("changes", "message"), [
    ({"decode": {"vae": ["pixels", 0]}}, "Harmony VAE Decode needs a Harmony-VAE; got a plain VAE"),
    ({"conditioning": {"vae": ["pixels", 0]}}, "vae must have 4 latent channels, got 3 (PixelspaceConversionVAE)"),
    ({"conditioning": {"mask": ["composite", 1]}}, "mask must have foreground (white"),
    ({"decode": {"samples": ["large", 0]}}, "image must have the size of the latent, 256 x 256 px, got 128 x 96 px"),
    ({"decode": {"samples": ["sd3", 0]}}, "samples must be a latent [B, 4, h, w], got [1, 16, 12, 16]"),
    ({"decode": {"samples": ["three", 0], "image": ["both", 0]}}, "image must have batch 1 or 3, got 2"),
], ids=str)  # fmt: skip
def test_connections_that_do_not_fit(error_of, changes, message):
    # without the core VAE Decode, which would fail first
    prompt = without(harmonize(), "plain", "plain_decode")
    assert message in error_of(changed(added(prompt, **OTHERS), **changes))


def test_core_resizes_of_a_mask_overshoot(run, made):
    """Bicubic ones leave 0..1 on both sides."""
    prompt = added(
        without(harmonize(), "plain", "plain_decode"),
        picture=node("MaskToImage", mask=["mask", 0]),
        scaled=node("ImageScale", image=["picture", 0], upscale_method="bicubic", width=256, height=192, crop="disabled"),
        back=node("ImageToMask", image=["scaled", 0], channel="red"),
    )
    found = run(changed(prompt, conditioning={"mask": ["back", 0]}, decode={"mask": ["back", 0]}))
    assert found.images["conditional"][0].shape == (96, 128, 3)


def test_a_photograph_is_no_mask(server, error_of):
    photograph = server.add_input(DEMO / "real.png", "photograph.png")
    prompt = without(harmonize(mask=photograph), "plain", "plain_decode")
    assert "mask must be white foreground on black, as masks are, got a photograph in grey" in error_of(prompt)


def test_the_tiled_decode_is_named(error_of):
    prompt = changed(added(harmonize(), **OTHERS), decode={"vae": ["pixels", 0], "tile_size": 64})
    prompt["decode"]["class_type"] = "DiffHarmonyVAEDecodeTiled"
    assert "Harmony VAE Decode (Tiled) needs a Harmony-VAE; got a plain VAE" in error_of(prompt)


def test_an_image_of_nan_is_no_result(error_of):
    message = error_of(without(harmonize(vae="broken_vae.safetensors"), "plain", "plain_decode"))
    assert "decoded image must be finite, got NaN or infinity" in message and "--fp32-vae" in message
