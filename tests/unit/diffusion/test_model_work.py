"""No model works twice: how often encoders, decoder and UNet run in a whole harmonize (issue 12)."""

from contextlib import contextmanager

import pytest
import torch

from diffharmony.diffusion import harmonize
from diffharmony.diffusion.frames import harmonize_frames


@contextmanager
def counted(vae, unet):
    """Images that each model goes through: {name: count}."""
    found = dict.fromkeys(("encoder", "conditional_encoder", "decoder", "unet"), 0)

    def hook(name):
        def count(module, args):
            found[name] += len(args[0])

        return count

    modules = {"encoder": vae.encoder, "conditional_encoder": vae.conditional_encoder, "decoder": vae.decoder.conv_in, "unet": unet}  # D has two ways through it
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def composite():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 20:44] = 1
    return torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1, mask


def test_one_image_in_five_steps(vae, unet, composite):
    with counted(vae, unet) as found:
        harmonize(vae, unet, *composite, steps=5)
    assert found == {"encoder": 1, "conditional_encoder": 1, "decoder": 1, "unet": 5}


def test_variants_of_one_image_share_its_encoding(vae, unet, composite):
    with counted(vae, unet) as found:
        variants = harmonize(vae, unet, *composite, steps=5, seed=[3, 4, 5])
    assert found == {"encoder": 1, "conditional_encoder": 1, "decoder": 3, "unet": 15}
    for seed, variant in zip((3, 4, 5), variants.split(1)):
        torch.testing.assert_close(variant, harmonize(vae, unet, *composite, steps=5, seed=seed), atol=1e-4, rtol=0)


def test_variants_in_windows_share_each_windows_encoding(vae, unet):
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.rand(1, 3, 256, 256, generator=generator) * 2 - 1, torch.zeros(1, 1, 256, 256)
    mask[..., 40:60, 40:60] = mask[..., 180:200, 190:210] = 1
    with counted(vae, unet) as found:
        variants = harmonize(vae, unet, image, mask, steps=2, seed=[3, 4, 5], size=64, crop=2.0)
    windows = found["encoder"]
    assert 1 <= windows <= 2 and found == {"encoder": windows, "conditional_encoder": windows, "decoder": 3 * windows, "unet": 6 * windows}
    for seed, variant in zip((3, 4, 5), variants.split(1)):
        torch.testing.assert_close(variant, harmonize(vae, unet, image, mask, steps=2, seed=seed, size=64, crop=2.0), atol=1e-4, rtol=0)


def test_a_videos_frames_are_each_gone_through_once_however_often_they_are_read(vae, unet, composite):
    frames = [composite, (composite[0].flip(3), composite[1]), composite]
    with counted(vae, unet) as found:
        for _ in harmonize_frames(vae, unet, frames, steps=5):
            pass
    assert found == {"encoder": 3, "conditional_encoder": 3, "decoder": 3, "unet": 15}


def test_exact_tiles_keep_to_one_condition_too(vae, unet, composite, monkeypatch):
    whole = harmonize(vae, unet, *composite, steps=2, seed=[3, 4])
    with counted(vae, unet) as found:
        tiled = harmonize(vae, unet, *composite, steps=2, seed=[3, 4], tile=32)
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)
    assert found["encoder"] == 1 and found["unet"] == 4
