"""Tiled decoding: exact equals the whole decode, bounded comes close and closer with each pass (issue 12)."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.common.assets import ROOT
from diffharmony.common.images import load_image, load_mask, resize_image, resize_mask
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae
from diffharmony.harmony_vae.statistics import Moments
from diffharmony.tests.made import models

CONFIGS = (
    dict(widths=(16, 16), groups=4),
    dict(widths=(8, 8, 16, 16), layers=2, groups=4),
    dict(widths=(16,), groups=4),
    dict(widths=(8, 16), groups=4, mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False),
)


def harmony_vae(widths, groups, dtype=torch.float32, **config):
    vae = HarmonyVAE.from_autoencoder_kl(models.vae(widths, groups=groups, **config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for conv in vae.zero_convs():
            conv.weight.normal_(0, 0.3, generator=generator)
            conv.bias.normal_(0, 0.3, generator=generator)
    return vae.eval().to(dtype)


def made_inputs(vae, rows, columns, images=1, latents=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    factor = vae.spatial_factor
    image = torch.rand(images, 3, rows * factor, columns * factor, generator=generator) * 2 - 1
    mask = (torch.rand(images, 1, *image.shape[2:], generator=generator) > 0.5).float()
    return torch.randn(latents, 4, rows, columns, generator=generator).to(vae.dtype), image.to(vae.dtype), mask


def apart(found, expected):
    """Of the expected values' range."""
    return ((found.float() - expected.float()).abs().max() / (expected.max() - expected.min()).float()).item()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_exact_tiles_are_the_whole_decode(config, data):
    vae = harmony_vae(**config)
    rows, columns, tile = (data.draw(st.integers(low, 11), name) for low, name in ((1, "rows"), (1, "columns"), (4, "tile")))
    latents = data.draw(st.integers(1, 3), "latents")
    images = data.draw(st.sampled_from((1, latents)), "images")
    z, image, mask = made_inputs(vae, rows, columns, images, latents)
    expected = vae.decode(z, vae.encode_condition(image, mask)).sample
    assert apart(vae.decode_tiled(z, image, mask, tile=tile * vae.spatial_factor).sample, expected) < 1e-5
    moments = vae.encode(image).latent_dist.parameters
    assert apart(vae.encode_tiled(image, tile=tile * vae.spatial_factor).latent_dist.parameters, moments) < 1e-5


@torch.no_grad()
def test_attention_at_other_levels_is_whole_too():
    plain = AutoencoderKL(
        block_out_channels=(16, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    )  # fmt: skip
    vae = HarmonyVAE.from_autoencoder_kl(plain, "random", torch.Generator().manual_seed(0)).eval()
    z, image, mask = made_inputs(vae, 9, 7)
    assert apart(vae.decode_tiled(z, image, mask, tile=8).sample, vae.decode(z, vae.encode_condition(image, mask)).sample) < 1e-5


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
@torch.no_grad()
def test_half_precision_tiles(dtype, bound):
    vae = harmony_vae(**CONFIGS[0], dtype=dtype)
    z, image, mask = made_inputs(vae, 9, 7)
    found = vae.decode_tiled(z, image, mask, tile=8).sample
    assert found.dtype == dtype and apart(found, vae.decode(z, vae.encode_condition(image, mask)).sample) < bound


@torch.no_grad()
def test_maps_in_files_give_the_same_and_leave_nothing(tmp_path):
    vae = harmony_vae(**CONFIGS[0])
    z, image, mask = made_inputs(vae, 9, 7)
    expected = vae.decode_tiled(z, image, mask, tile=8).sample
    assert torch.equal(vae.decode_tiled(z, image, mask, tile=8, store=Path(tmp_path)).sample, expected)
    assert not list(tmp_path.iterdir())


def test_moments_of_parts_are_those_of_the_whole_far_from_zero():
    values = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 1000
    parts = [Moments.of(part, 2) for part in values.split(5, dim=2)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    exact = values.double().reshape(1, 2, -1)
    torch.testing.assert_close(merged.mean, exact.mean(-1), rtol=1e-7, atol=0)
    torch.testing.assert_close(merged.scatter / merged.count, exact.var(-1, correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("name", "decoded", "mask_name", "size", "tile"),
    [("composite", "composite", "mask", (344, 512), 128), ("composite", "real", "mask", (344, 512), 128), ("pasted", "pasted", "pasted_mask", (256, 384), 256)],
)
@torch.no_grad()
def test_bounded_tiles_converge_on_a_photograph(name, decoded, mask_name, size, tile):
    vae = load_harmony_vae(ROOT / "assets/tiny/harmony_vae.safetensors")
    image, decoded = (resize_image(load_image(ROOT / f"assets/demo/{one}.png"), size) for one in (name, decoded))
    mask = (resize_mask(load_mask(ROOT / f"assets/demo/{mask_name}.png"), size) > 0.5).float()
    z = vae.encode(decoded).latent_dist.mode()
    expected = vae.decode(z, vae.encode_condition(image, mask)).sample
    differences = [
        (vae.decode_tiled(z, image, mask, tile=tile, mode="bounded", refinements=refinements).sample - expected).abs() * 127.5 for refinements in range(3)
    ]
    assert differences[1].mean() <= 0.1 and differences[1].max() <= 2  # of 255, issue 12's bounds
    assert differences[2].mean() <= 0.01 and differences[2].max() <= 0.1


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.no_grad()
def test_one_bounded_tile_is_the_whole_decode(config):
    vae = harmony_vae(**config)
    z, image, mask = made_inputs(vae, 5, 7, latents=2)
    tile = 8 * vae.spatial_factor
    for refinements in (0, 1):
        found = vae.decode_tiled(z, image, mask, tile=tile, mode="bounded", refinements=refinements).sample
        assert apart(found, vae.decode(z, vae.encode_condition(image, mask)).sample) < 1e-4
    found = vae.encode_tiled(image, tile=tile, mode="bounded").latent_dist.parameters
    assert apart(found, vae.encode(image).latent_dist.parameters) < 1e-4


def test_refusals():
    vae = harmony_vae(**CONFIGS[0])
    z, image, mask = made_inputs(vae, 9, 7)
    for arguments, message in [
        (dict(tile=63), "tile must be a whole multiple of 2"),
        (dict(mode="fast"), "mode must be one of exact, bounded"),
        (dict(refinements=-1), "refinements must be a whole number"),
        (dict(mask=mask[..., :-2]), "mask must be 18 x 14"),
    ]:
        with pytest.raises(ValueError, match=message):
            vae.decode_tiled(**{"z": z, "image": image, "mask": mask, **arguments})
