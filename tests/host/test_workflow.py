"""The whole workflow in a real ComfyUI, beside the library's own result for the same latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffharmony.common.images import resize_mask
from diffharmony.common.masks import binarize_mask, mask_to_latent
from diffharmony.tests.host.prompts import added, changed, harmonize, node

TOLERANCE = 2  # of 255: rounding to 8 bits, and another order of summation


def pixels(path, channels=3) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB" if channels == 3 else "L"))


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    """[H,W,3] or [H,W] uint8 -> [1,C,H,W] in 0..1"""
    return torch.from_numpy(picture.copy()).float().reshape(1, *picture.shape[:2], -1).movedim(-1, 1) / 255


def as_picture(image: torch.Tensor) -> np.ndarray:
    """[1,3,H,W] in -1..1 -> [H,W,3] uint8, rounded as the host does"""
    return (((image[0] + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).movedim(0, -1).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def with_latent(prompt):
    return added(prompt, latent=node("SaveLatent", samples=["sampler", 0], filename_prefix="test"))


def saved_latent(server, result) -> torch.Tensor:
    return load_file(server.base / "output" / result.files["latent"][0])["latent_tensor"].float()


@torch.no_grad()
def library_decode(vae, latent, composite, mask, conditional=True) -> torch.Tensor:
    if not conditional:
        return vae.decode(latent).sample
    return vae.decode(latent, vae.encode_condition(as_tensor(composite) * 2 - 1, binarize_mask(as_tensor(mask)))).sample


def test_importing_the_extension_adds_under_0_3_seconds(server):
    assert server.import_seconds < 0.3


def test_images_are_the_librarys_own(server, run, made, library_vae):
    prompt = changed(harmonize(), decode={"paste_background": False})
    result = run(with_latent(prompt))
    latent = saved_latent(server, result)
    composite, mask = pixels(made / "composite.png"), pixels(made / "mask.png", 1)
    conditional, plain = result.images["conditional"][0], result.images["plain"][0]
    assert difference(conditional, as_picture(library_decode(library_vae, latent, composite, mask))) <= TOLERANCE
    assert difference(plain, as_picture(library_decode(library_vae, latent, composite, mask, conditional=False))) <= TOLERANCE
    assert difference(conditional, plain) > 10 * TOLERANCE


def test_background_is_the_composites_own(run, made):
    result = run(harmonize())
    background = pixels(made / "mask.png", 1) == 0
    harmonized, composite = result.images["conditional"][0], pixels(made / "composite.png")
    assert np.array_equal(harmonized[background], composite[background])
    assert difference(harmonized[~background][None], composite[~background][None]) > TOLERANCE


def test_another_seed_gives_another_image_and_the_same_seed_the_same(run):
    first, second, third = (run(harmonize(seed=seed)).images["conditional"][0] for seed in (7, 8, 7))
    assert difference(first, second) > 0
    assert difference(first, third) == 0


def test_sampling_follows_the_library(server, run, made, library_vae):
    """Plain Euler draws no noise on the way, so that the host's loop can be redone from the noise that it reports."""
    from diffharmony.diffusion import load_unet

    unet = load_unet(made / "harmonization_unet.safetensors")
    prompt = changed(harmonize(), sampler={"sampler_name": "euler"})
    result = run(with_latent(prompt))
    composite, mask = as_tensor(pixels(made / "composite.png")), as_tensor(pixels(made / "mask.png", 1))
    with torch.no_grad():
        condition = library_vae.encode(composite * 2 - 1).latent_dist.mode() * 0.18215
        mask = mask_to_latent(mask, condition.shape[-2:])
        noise = torch.randn(condition.shape, generator=torch.manual_seed(0))
        sigmas = torch.tensor([14.6146, 4.0861, 1.6156, 0.6951, 0.0292, 0.0])
        x = noise * (1 + sigmas[0] ** 2) ** 0.5
        for sigma, following, t in zip(sigmas, sigmas[1:], (999, 749, 500, 250, 0)):
            scale = (sigma**2 + 1) ** 0.5
            v = unet(torch.cat([x / scale, mask, condition], dim=1), t, unet.empty_prompt_embeds).sample
            x0 = x / scale**2 - v * sigma / scale
            x = x + (x - x0) / sigma * (following - sigma)
    assert (saved_latent(server, result) * 0.18215 - x).abs().max() < 0.01 * x.abs().max()


def test_an_image_of_odd_size_comes_back_in_its_size(server, run, made, library_vae):
    prompt = changed(harmonize(composite="odd.png", mask="odd_mask.png"), decode={"paste_background": False})
    result = run(with_latent(prompt))
    composite, mask = pixels(made / "odd.png"), pixels(made / "odd_mask.png", 1)
    padded = [np.pad(picture, [(0, 5), (0, 3), (0, 0)][: picture.ndim], mode="reflect") for picture in (composite, mask)]
    expected = library_decode(library_vae, saved_latent(server, result), *padded)
    assert difference(result.images["conditional"][0], as_picture(expected)[:75, :101]) <= TOLERANCE


def test_an_image_of_odd_size_keeps_its_background(run, made):
    result = run(harmonize(composite="odd.png", mask="odd_mask.png"))
    background = pixels(made / "odd_mask.png", 1) == 0
    assert np.array_equal(result.images["conditional"][0][background], pixels(made / "odd.png")[background])


def test_a_latent_of_the_hosts_vae_encode_decodes_in_its_size(run):
    prompt = added(
        harmonize(composite="odd.png", mask="odd_mask.png"),
        sampler=node("VAEEncode", pixels=["composite", 0], vae=["vae", 0]),
    )
    assert run(prompt).images["conditional"][0].shape == (72, 96, 3)


@pytest.mark.parametrize("decode", ["DiffHarmonyVAEDecode", "DiffHarmonyVAEDecodeTiled"])
def test_rgba_image_is_taken_without_its_alpha(run, decode):
    prompts = [changed(harmonize(composite=name), decode={"tile_size": 512}) for name in ("composite.png", "rgba.png")]
    prompts = [{**prompt, "decode": {**prompt["decode"], "class_type": decode}} for prompt in prompts]
    opaque, transparent = (run(prompt).images["conditional"][0] for prompt in prompts)
    assert difference(opaque, transparent[..., :3]) == 0


def test_a_mask_of_another_size_is_stretched(run, made):
    image = run(harmonize(mask="small_mask.png")).images["conditional"][0]
    outside = resize_mask(as_tensor(pixels(made / "small_mask.png", 1)), (96, 128))[0, 0].numpy() == 0
    assert outside.mean() > 0.5
    assert np.array_equal(image[outside], pixels(made / "composite.png")[outside])


def test_a_full_mask_changes_everything_and_is_mentioned(server, run, made):
    image = run(harmonize(mask="full_mask.png")).images["conditional"][0]
    assert difference(image, pixels(made / "composite.png")) > TOLERANCE
    assert "white everywhere" in server.log


def test_two_images_share_one_mask(run, made):
    prompt = added(
        changed(harmonize(), conditioning={"image": ["both", 0]}, decode={"image": ["both", 0]}),
        second=node("LoadImage", image="second.png"),
        both=node("ImageBatch", image1=["composite", 0], image2=["second", 0]),
    )
    images = run(prompt).images["conditional"]
    background = pixels(made / "mask.png", 1) == 0
    for image, name in zip(images, ("composite.png", "second.png"), strict=True):
        assert np.array_equal(image[background], pixels(made / name)[background])


def test_one_image_serves_several_latents(server, run, made, library_vae):
    prompt = added(
        changed(harmonize(), sampler={"latent_image": ["repeated", 0]}, decode={"paste_background": False}),
        repeated=node("RepeatLatentBatch", samples=["conditioning", 2], amount=2),
    )
    result = run(with_latent(prompt))
    composite, mask = pixels(made / "composite.png"), pixels(made / "mask.png", 1)
    first, second = result.images["conditional"]
    expected = library_decode(library_vae, saved_latent(server, result)[1:], composite, mask)
    assert difference(second, as_picture(expected)) <= TOLERANCE
    assert difference(first, second) > 0


@pytest.mark.parametrize("mode", [{}, {"mode": "auto"}, {"mode": "exact"}, {"mode": "bounded"}], ids=str)  # {}: a workflow of before there was one
def test_tiled_decode_is_the_librarys_own(server, run, made, library_vae, mode):
    prompt = changed(harmonize(), decode={"paste_background": False, "tile_size": 64, **mode})
    prompt["decode"]["class_type"] = "DiffHarmonyVAEDecodeTiled"
    result = run(with_latent(prompt))
    composite, mask = as_tensor(pixels(made / "composite.png")) * 2 - 1, as_tensor(pixels(made / "mask.png", 1))
    with torch.no_grad():
        expected = library_vae.decode_tiled(saved_latent(server, result), composite, mask, tile=64, mode="bounded" if mode.get("mode") == "bounded" else "exact").sample
    assert difference(result.images["conditional"][0], as_picture(expected)) <= TOLERANCE


def test_core_vae_nodes_take_our_vae(server, run, made, library_vae):
    prompt = {
        "composite": node("LoadImage", image="composite.png"),
        "vae": node("DiffHarmonyLoadHarmonyVAE", vae_name="harmony_vae.safetensors"),
        "sampler": node("VAEEncode", pixels=["composite", 0], vae=["vae", 0]),
        "tiles": node(
            "VAEEncodeTiled", pixels=["composite", 0], vae=["vae", 0], tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8
        ),
        "whole": node("PreviewImage", images=["whole_decode", 0]),
        "whole_decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "tiled": node("PreviewImage", images=["tiled_decode", 0]),
        "tiled_decode": node(
            "VAEDecodeTiled", samples=["tiles", 0], vae=["vae", 0], tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8
        ),
    }
    result = run(with_latent(prompt))
    composite = as_tensor(pixels(made / "composite.png")) * 2 - 1
    with torch.no_grad():
        latent = library_vae.encode(composite).latent_dist.mode()
        expected = as_picture(library_vae.decode(latent).sample)
    assert torch.allclose(saved_latent(server, result), latent, atol=1e-4)
    assert difference(result.images["whole"][0], expected) <= TOLERANCE
    assert difference(result.images["tiled"][0], expected) <= TOLERANCE


def test_the_host_saves_our_vae_so_that_it_loads_again(server, run, library_vae):
    run(
        {
            "vae": node("DiffHarmonyLoadHarmonyVAE", vae_name="harmony_vae.safetensors"),
            "save": node("VAESave", vae=["vae", 0], filename_prefix="saved"),
        }
    )
    from diffharmony.harmony_vae import load_harmony_vae

    saved = load_harmony_vae(next((server.base / "output").glob("saved*.safetensors")))
    assert all(torch.equal(a, b) for a, b in zip(saved.state_dict().values(), library_vae.state_dict().values(), strict=True))
    assert saved.config.norm_num_groups == library_vae.config.norm_num_groups == 8
