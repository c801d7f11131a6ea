"""What a user reads when something does not fit."""

from __future__ import annotations

import pytest

from diffharmony.tests.host.prompts import added, changed, harmonize, node, without


@pytest.mark.parametrize(
    ("decode", "name"),
    [("DiffHarmonyVAEDecode", "Harmony VAE Decode needs"), ("DiffHarmonyVAEDecodeTiled", "Harmony VAE Decode (Tiled) needs")],
)
def test_a_plain_vae_is_refused_by_name(error_of, decode, name):
    prompt = added(
        changed(harmonize(), decode={"vae": ["other", 0], "tile_size": 64}),
        other=node("VAELoader", vae_name="pixel_space"),
    )
    prompt["decode"]["class_type"] = decode
    message = error_of(prompt)
    assert name in message
    assert "got a plain VAE" in message and "'Load Harmony-VAE'" in message


def test_a_plain_vae_file_is_refused_by_the_loader(error_of):
    message = error_of(harmonize(vae="plain_vae.safetensors"))
    assert "must be a Harmony-VAE" in message and "got a plain VAE" in message


def test_a_unet_file_is_refused_by_the_vae_loader(server, made, error_of):
    server.add_model("vae", made / "harmonization_unet.safetensors")
    message = error_of(harmonize(vae="harmonization_unet.safetensors"))
    assert "must be a Harmony-VAE" in message and "got a UNet" in message


def test_a_vae_file_is_refused_by_the_unet_loader(server, made, error_of):
    server.add_model("diffusion_models", made / "harmony_vae.safetensors")
    message = error_of(harmonize(unet="harmony_vae.safetensors"))
    assert "must be a UNet" in message and "It is a VAE" in message


def test_a_damaged_file_is_refused(server, made, error_of):
    whole = (made / "harmony_vae.safetensors").read_bytes()
    (server.base / "models" / "vae" / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in error_of(harmonize(vae="damaged.safetensors"))


def test_an_inverse_unet_is_refused_by_the_harmonization_loader(error_of):
    message = error_of(harmonize(unet="inverse_unet.safetensors"))
    assert "must be a UNet of direction 'harmonize', got 'invert'" in message


def test_a_harmony_vae_of_the_other_direction_is_refused(error_of):
    message = error_of(harmonize(vae="inverse_harmony_vae.safetensors"))
    assert "vae must be a Harmony-VAE of direction 'harmonize', as the UNet is, got 'invert'" in message


def test_an_image_of_nan_is_no_result(error_of):
    message = error_of(without(harmonize(vae="broken_vae.safetensors"), "plain", "plain_decode"))
    assert "decoded image must be finite, got NaN or infinity" in message and "--fp32-vae" in message


def test_a_file_that_is_not_there_is_refused(error_of):
    assert "nowhere.safetensors" in error_of(harmonize(vae="nowhere.safetensors"))


def test_an_empty_mask_is_refused_with_the_likely_cause(error_of):
    message = error_of(harmonize(mask="empty_mask.png"))
    assert "mask must mark the foreground in white" in message and "Load Image (as Mask)" in message


def test_a_vae_of_other_latents_is_refused_by_the_conditioning(error_of):
    prompt = added(changed(harmonize(), conditioning={"vae": ["other", 0]}), other=node("VAELoader", vae_name="pixel_space"))
    assert "vae must have 4 latent channels, got 3 (PixelspaceConversionVAE)" in error_of(prompt)


def test_the_empty_mask_output_of_load_image_is_refused(error_of):
    prompt = changed(harmonize(), conditioning={"mask": ["composite", 1]})
    assert "mask must mark the foreground in white" in error_of(prompt)


def test_a_latent_of_another_size_is_refused(error_of):
    prompt = added(harmonize(), sampler=node("EmptyLatentImage", width=256, height=256, batch_size=1))
    message = error_of(prompt)
    assert "image must have the size of the latent, 256 x 256 px, got 128 x 96 px" in message


def test_a_latent_of_another_model_family_is_refused(error_of):
    # Without the core VAE Decode, which would fail first.
    prompt = without(harmonize(), "plain", "plain_decode")
    prompt = added(prompt, sampler=node("EmptySD3LatentImage", width=128, height=96, batch_size=1))
    assert "samples must be a latent [B, 4, h, w], got [1, 16, 12, 16]" in error_of(prompt)


def test_batches_that_do_not_go_together_are_refused(error_of):
    prompt = added(
        changed(harmonize(), decode={"image": ["both", 0]}),
        sampler=node("EmptyLatentImage", width=128, height=96, batch_size=3),
        second=node("LoadImage", image="second.png"),
        both=node("ImageBatch", image1=["composite", 0], image2=["second", 0]),
    )
    assert "image must have batch 1 or the latent's 3, got 2" in error_of(prompt)
