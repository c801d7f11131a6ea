"""harmonize(): any size, exact background, reproducible, refusals."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.diffusion import DiffHarmonyPipeline, harmonize, load_unet, save_unet
from diffharmony.diffusion.calibration import Calibration
from diffharmony.diffusion.crop import CONTEXT, Crop, crop_foregrounds
from diffharmony.diffusion.inference import size_multiple, working_size


def pair(height, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    composite = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    mask = (torch.rand(batch, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    mask[..., 0, 0] = 1
    return composite, mask


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), batch=st.integers(1, 2), size=st.sampled_from([None, 64, "native"]),
       paste=st.booleans())
def test_any_size_comes_back_at_its_size_with_its_background(vae, unet, height, width, batch, size, paste):
    composite, mask = pair(height, width, batch, seed=height * 100 + width)
    out = harmonize(vae, unet, composite, mask, steps=1, size=size, paste_background=paste)
    assert out.shape == composite.shape and out.dtype == composite.dtype
    assert out.min() >= -1 and out.max() <= 1
    if paste:
        outside = (mask == 0).expand_as(out)
        assert torch.equal(out[outside], composite[outside])


def test_pasting_is_a_blend_of_the_unpasted_result(vae, unet):
    composite, mask = pair(64, 48)
    pasted = harmonize(vae, unet, composite, mask, steps=2)
    whole = harmonize(vae, unet, composite, mask, steps=2, paste_background=False)
    torch.testing.assert_close(pasted, mask * whole + (1 - mask) * composite, rtol=0, atol=1e-5)
    assert not torch.equal(whole[(mask == 0).expand_as(whole)], composite[(mask == 0).expand_as(whole)])


def test_it_is_the_documented_chain_of_parts(vae, unet):
    from diffharmony.common.masks import binarize_mask, mask_to_latent
    from diffharmony.diffusion import sample_generators, sample_latents

    composite, mask = pair(64, 64)
    hard = binarize_mask(mask)
    with torch.no_grad():
        z = vae.encode(composite).latent_dist.mode() * vae.config.scaling_factor
        z = sample_latents(unet, z, mask_to_latent(mask, (8, 8)), steps=5, generator=sample_generators(4, 1))
        image = vae.decode(z / vae.config.scaling_factor, vae.encode_condition(composite, hard)).sample.clamp(-1, 1)
    got = harmonize(vae, unet, composite, mask, seed=4, paste_background=False, detail="decoded")
    torch.testing.assert_close(got, image, rtol=0, atol=1e-5)


def test_an_image_of_a_batch_equals_the_image_alone(vae, unet):
    composite, mask = pair(40, 56, batch=3)
    batch = harmonize(vae, unet, composite, mask, seed=5)
    alone = harmonize(vae, unet, composite[2:], mask[2:], seed=7)
    listed = harmonize(vae, unet, composite[1:], mask[1:], seed=[6, 7])
    torch.testing.assert_close(batch[2:], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(batch[1:], listed, rtol=0, atol=1e-4)


def test_seeds_decide(vae, unet):
    composite, mask = pair(64, 64)
    first, again, other = (harmonize(vae, unet, composite, mask, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_one_mask_serves_many_images_and_the_reverse(vae, unet):
    composite, mask = pair(32, 32, batch=2)
    assert harmonize(vae, unet, composite, mask[:1], steps=1).shape == (2, 3, 32, 32)
    assert harmonize(vae, unet, composite[:1], mask, steps=1).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("paste_background", [True, False])
@pytest.mark.parametrize(("value", "found"), [(0, "none: it is black"), (38, "none: nothing is brighter than 38 of 255"), (1, "values 0 and 1")])
def test_a_mask_that_marks_nothing_is_refused(vae, unet, value, found, paste_background):
    composite, mask = pair(32, 32)
    with pytest.raises(ValueError, match=f"mask must have foreground .white, at least half of the range., got {found}"):
        harmonize(vae, unet, composite, mask * value / 255, steps=1, paste_background=paste_background)


def test_a_dull_mask_is_told_of(vae, unet, caplog):
    composite, mask = pair(32, 32)
    harmonize(vae, unet, composite, mask * 0.6, steps=1)
    assert "mask is nowhere brighter than 153 of 255: its foreground counts in part only" in caplog.text


@pytest.mark.parametrize("detail", ["transfer", "change", "decoded"])
def test_a_background_of_one_level_changes_no_pixel(vae, unet, detail):
    composite, mask = pair(64, 64)
    mask = (mask > 0).float()
    levels = torch.where(mask > 0, 254 / 255, 1 / 255)
    found = harmonize(vae, unet, composite, levels, steps=1, detail=detail)
    assert torch.equal(found, harmonize(vae, unet, composite, mask, steps=1, detail=detail))
    assert torch.equal(found[(mask == 0).expand_as(found)], composite[(mask == 0).expand_as(composite)])


def test_a_full_mask_runs(vae, unet):
    composite, mask = pair(32, 32)
    full = torch.ones_like(mask)
    assert torch.equal(
        harmonize(vae, unet, composite, full, steps=1), harmonize(vae, unet, composite, full, steps=1, paste_background=False)
    )


def test_conditional_and_plain_decode_differ_and_a_plain_vae_decodes_plainly(vae, plain_vae, unet):
    composite, mask = pair(64, 64)
    conditional = harmonize(vae, unet, composite, mask)
    plain = harmonize(vae, unet, composite, mask, conditional=False)
    assert not torch.allclose(conditional, plain, atol=1e-3)
    torch.testing.assert_close(harmonize(plain_vae, unet, composite, mask), plain, rtol=0, atol=1e-5)


def test_detail_is_kept_when_working_small(vae, unet):
    composite, mask = pair(128, 128)
    kept = harmonize(vae, unet, composite, mask, size=64, paste_background=False)
    enlarged = harmonize(vae, unet, composite, mask, size=64, paste_background=False, keep_detail=False)

    def detail(image):
        return (image[..., 1:] - image[..., :-1]).abs().mean()

    assert detail(kept) > 0.5 * detail(composite)
    assert detail(enlarged) < 0.5 * detail(composite)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_and_images(vae, unet, dtype):
    half_vae, half_unet = copy.deepcopy(vae).to(dtype), copy.deepcopy(unet).to(dtype)
    composite, mask = pair(64, 64)
    out = harmonize(half_vae, half_unet, composite, mask)
    reference = harmonize(vae, unet, composite, mask)
    assert out.dtype == torch.float32
    assert (out - reference).abs().mean() < 0.05
    assert harmonize(half_vae, half_unet, composite.to(dtype), mask).dtype == dtype


def test_tiles_are_the_whole_image_and_memory_that_runs_out_steps_down_to_them(vae, unet, monkeypatch, caplog):
    composite, mask = pair(128, 128)
    whole = harmonize(vae, unet, composite, mask, steps=1)
    torch.testing.assert_close(harmonize(vae, unet, composite, mask, steps=1, tile=64), whole, atol=1e-4, rtol=0)

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("as if the device had no memory left")

    tiled, modes = vae.decode_tiled, []
    monkeypatch.setattr(vae, "decode", full)
    monkeypatch.setattr(vae, "decode_tiled", lambda *args, mode="exact", **options: modes.append(mode) or tiled(*args, mode=mode, **options))
    torch.testing.assert_close(harmonize(vae, unet, composite, mask, steps=1), whole, atol=1e-4, rtol=0)
    monkeypatch.setattr(vae, "decode_tiled", lambda *args, mode="exact", **options: full() if mode == "exact" else modes.append(mode) or tiled(*args, mode=mode, **options))
    assert harmonize(vae, unet, composite, mask, steps=1).isfinite().all()
    assert modes == ["exact", "bounded"] and "(exact)" in caplog.text and "(bounded)" in caplog.text


@pytest.mark.parametrize(("size", "shape", "expected"), [
    (None, (300, 200), (300, 200)), (None, (2048, 1024), (1024, 512)), ("native", (2048, 1024), (2048, 1024)),
    (512, (300, 200), (512, 341)), (512, (512, 512), (512, 512)), (64, (4000, 1), (64, 1)),
])
def test_working_size(size, shape, expected):
    assert working_size(*shape, size) == expected


def test_size_multiple_of_both_models(vae, unet):
    assert size_multiple(vae, unet) == 16


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"size": 10}, ValueError, "size must be a whole number of at least 64"),
    ({"size": "big"}, ValueError, "size must be"),
    ({"steps": 0}, ValueError, "steps must be"),
    ({"seed": []}, ValueError, r"seed must be one number or one per image \(1\), got 0"),
    ({"seed": [1, 2], "composite": torch.zeros(3, 3, 32, 32)}, ValueError, r"seed must be one number or one per image \(3\), got 2"),
    ({"composite": torch.full((1, 3, 32, 32), 200.0)}, ValueError, r"composite must lie in \[-1, 1\]"),
    ({"composite": torch.full((1, 3, 32, 32), float("nan"))}, ValueError, r"composite must lie in \[-1, 1\]"),
    ({"composite": torch.zeros(1, 3, 16, 16)}, ValueError, "mask must be as large"),
    ({"conditional": False, "tile": 64}, ValueError, "tile must be None"),
    ({"tile": 100}, ValueError, "tile must be a whole multiple of 8 and at least 32, got 100"),
    ({"tile": 24}, ValueError, "tile must be a whole multiple of 8 and at least 32, got 24"),
    ({"tile": 40.0}, ValueError, "tile must be a whole multiple"),
    ({"seed": None}, ValueError, "seed must be a whole number, or one for each image, got None"),
    ({"seed": 1.5}, ValueError, "seed must be a whole number"),
    ({"seed": [1.5]}, ValueError, "seed must be a whole number"),
])
def test_refusals(vae, unet, change, error, message):
    composite, mask = pair(32, 32)
    with pytest.raises(error, match=message):
        harmonize(vae, unet, **{"composite": composite, "mask": mask, "progress": fail_when_sampling, **change})


def fail_when_sampling(done, total):
    raise RuntimeError("sampled before it was refused")


def test_a_vae_of_the_other_direction_is_refused(vae, unet, plain_vae, monkeypatch):
    monkeypatch.setattr(vae, "direction", "invert", raising=False)
    monkeypatch.setattr(plain_vae, "direction", "invert", raising=False)
    message = "vae and unet must be of one direction, got a Harmony-VAE for 'invert' and a UNet for 'harmonize'"
    with pytest.raises(ValueError, match=message):
        harmonize(vae, unet, *pair(32, 32), progress=fail_when_sampling)
    with pytest.raises(ValueError, match=message):
        DiffHarmonyPipeline(vae=vae, unet=unet)
    harmonize(vae, unet, *pair(32, 32), steps=1, conditional=False)
    harmonize(plain_vae, unet, *pair(32, 32), steps=1)


def test_a_plain_vae_is_refused_where_conditional_is_asked(plain_vae, unet):
    with pytest.raises(ValueError, match="must be a HarmonyVAE.*got AutoencoderKL"):
        harmonize(plain_vae, unet, *pair(32, 32), conditional=True)


def test_overflow_in_half_precision_is_an_error(vae, unet):
    broken = copy.deepcopy(unet)
    with torch.no_grad():
        broken.conv_out.bias.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="must be finite.*bfloat16"):
        harmonize(vae, broken, *pair(32, 32))


def test_harmony_vae_works_as_the_vae_of_a_plain_call(vae, unet):
    assert isinstance(vae, AutoencoderKL)
    out = harmonize(vae, unet, *pair(32, 32), conditional=False, steps=1)
    assert out.shape == (1, 3, 32, 32)


def test_strength_scales_every_detail_and_none_is_the_composite(vae, unet):
    composite, mask = pair(64, 48)
    for detail in ("transfer", "change", "decoded"):
        assert torch.equal(harmonize(vae, unet, composite, mask, steps=1, detail=detail, strength=0), composite)
        half, whole = (harmonize(vae, unet, composite, mask, steps=1, detail=detail, strength=s) for s in (0.5, 1.0))
        assert (half - composite).abs().mean() < (whole - composite).abs().mean()


def test_a_calibration_shrinks_a_transfer_but_not_the_papers_protocol(vae, unet, monkeypatch):
    composite, mask = pair(64, 48)
    plain = {detail: harmonize(vae, unet, composite, mask, steps=1, detail=detail) for detail in ("transfer", "decoded")}
    monkeypatch.setattr(unet, "calibration", Calibration((1e4,), (0.0,), (1e4,), 12), raising=False)
    assert torch.equal(harmonize(vae, unet, composite, mask, steps=1), composite)
    assert not torch.equal(plain["transfer"], composite)
    assert torch.equal(harmonize(vae, unet, composite, mask, steps=1, detail="decoded"), plain["decoded"])


def test_keep_detail_is_still_understood(vae, unet):
    composite, mask = pair(96, 96)
    for keep, detail in ((True, "change"), (False, "decoded")):
        old = harmonize(vae, unet, composite, mask, steps=1, size=64, keep_detail=keep)
        assert torch.equal(old, harmonize(vae, unet, composite, mask, steps=1, size=64, detail=detail))
    with pytest.raises(ValueError, match="must not both be given"):
        harmonize(vae, unet, composite, mask, keep_detail=True, detail="change")


def test_the_working_size_is_the_checkpoints(vae, unet, monkeypatch, caplog):
    assert working_size(300, 200, None, (256, 128)) == working_size(300, 200, "auto", (256, 128)) == (256, 171)
    assert working_size(200, 100, None, (256, 128)) == (128, 64) and working_size(96, 96, None, (256, 128)) == (128, 128)
    monkeypatch.setattr(unet, "sizes", (128,), raising=False)
    with caplog.at_level("INFO", "diffharmony"):
        harmonize(vae, unet, *pair(64, 64), steps=1)
    assert "Working at 128 x 128 px" in caplog.text and "enlarges the image of 64 x 64 px" in caplog.text


def test_a_foreground_that_is_lost_at_the_working_size_is_told(vae, unet, caplog):
    composite, mask = pair(256, 256)
    mask = torch.zeros_like(mask)
    mask[..., 101, 103] = 1
    assert torch.equal(harmonize(vae, unet, composite, mask, steps=1, size=64), composite)
    assert "foreground smaller than a pixel there: it stays as it is" in caplog.text


def test_sizes_and_calibration_go_with_the_file(unet, tmp_path):
    calibration = Calibration((1.0, 9.0), (0.2, 0.8), (3.0, 4.0), 40)
    save_unet(unet, tmp_path / "unet.safetensors", sizes=(256, 128), calibration=calibration)
    again = load_unet(tmp_path / "unet.safetensors")
    assert again.sizes == (256, 128) and again.calibration == calibration
    save_unet(again, tmp_path / "copy.safetensors")
    assert load_unet(tmp_path / "copy.safetensors").calibration == calibration


class TestCrops:
    """Windows around small foregrounds instead of the whole image."""

    @pytest.fixture
    def small(self):
        composite, _ = pair(150, 200, batch=2)
        mask = torch.zeros(2, 1, 150, 200)
        mask[:, :, 20:40, 20:44] = mask[1, :, 110:120, 150:160] = 1
        return composite, mask

    def test_each_window_is_harmonized_by_itself_and_nothing_outside_the_mask_changes(self, vae, unet, small):
        composite, mask = small
        seen = []
        out = harmonize(vae, unet, composite, mask, steps=2, size=64, seed=[7, 3], crop=2.0, progress=lambda *counts: seen.append(counts))
        assert seen == [(done, 6) for done in range(1, 7)]
        outside = (mask == 0).expand_as(out)
        assert torch.equal(out[outside], composite[outside])
        crops = crop_foregrounds(mask, 2.0)
        assert [crop.index for crop in crops] == [0, 1, 1]
        alone = harmonize(vae, unet, crops[2].of(composite), crops[2].of(mask), steps=2, size=64, seed=3)
        assert torch.equal(crops[2].of(out), alone)
        assert not torch.equal(out, harmonize(vae, unet, composite, mask, steps=2, size=64, seed=[7, 3]))

    def test_the_pipeline_crops_and_counts_the_steps_of_all(self, vae, unet, small, capsys):
        out = DiffHarmonyPipeline(vae=vae, unet=unet)(*small, steps=2, size=64, crop=2.0, output_type="pt").images
        assert torch.equal(out, harmonize(vae, unet, *small, steps=2, size=64, crop=2.0))
        assert "6/6" in capsys.readouterr().err

    def test_a_window_is_not_smaller_than_the_model_works_at(self, vae, unet, small, monkeypatch):
        monkeypatch.setattr(unet, "sizes", (100,), raising=False)
        composite, mask = (part[:1] for part in small)
        window = Crop(0, 0, 0, 100, 100)
        alone = harmonize(vae, unet, window.of(composite), window.of(mask), steps=1)
        assert torch.equal(window.of(harmonize(vae, unet, composite, mask, steps=1, crop=2.0)), alone)

    def test_auto_is_the_default_factor_where_the_foreground_is_small(self, vae, unet, small):
        composite, mask = small
        wanted = harmonize(vae, unet, composite, mask, steps=1, size=64, crop=CONTEXT)
        assert torch.equal(harmonize(vae, unet, composite, mask, steps=1, size=64, crop="auto"), wanted)
        assert harmonize(vae, unet, composite, mask, steps=1, size=64, crop="auto", paste_background=False).shape == composite.shape
        large = 1 - mask
        assert torch.equal(harmonize(vae, unet, composite, large, steps=1, size=64, crop="auto"), harmonize(vae, unet, composite, large, steps=1, size=64))

    def test_what_does_not_fit_is_refused_before_sampling(self, vae, unet, small):
        composite, mask = small
        for options, message in (
            ({"crop": 0.5}, "crop must be a context factor"),
            ({"crop": 2.0, "paste_background": False}, "crop must be None or 'auto'"),
            ({"crop": 2.0, "seed": [1]}, "seed must be one number or one per image"),
        ):
            with pytest.raises(ValueError, match=message):
                harmonize(vae, unet, composite, mask, progress=fail_when_sampling, **options)
