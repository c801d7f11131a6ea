"""Transfer Harmony: a fitted colour transform, applied at full size."""

import pytest
import torch

from diffharmony.common.images import resize_image
from diffharmony.diffusion import transfer
from diffharmony.diffusion.transfer import apply_transform, fit_transform, foreground_change, from_linear, to_linear, transfer_light


def picture(height=96, width=128, seed=0):
    """Smooth colours with grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0.02, 0.98)
    return ((smooth + 0.03 * torch.randn(1, 3, height, width, generator=generator)).clamp(0, 0.97) * 2 - 1)


def ellipse(height=96, width=128):
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return ((1 - (x / 0.7) ** 2 - (y / 0.8) ** 2) * 8).clamp(0, 1)[None, None]


def relit(image, gains=(0.8, 0.6, 0.5), field=None):
    light = torch.tensor(gains)[None, :, None, None] * (1 if field is None else field)
    return from_linear((to_linear(image / 2 + 0.5) * light).clamp(0, 1)) * 2 - 1


def error(found, wanted, mask):
    return foreground_change(wanted, found, mask).item()


def test_gains_are_recovered_through_noise_and_outliers():
    image, mask = picture(), ellipse()
    noisy = relit(image) + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    noisy[..., 40:48, 60:68] = 1.0
    found = apply_transform(fit_transform(image, noisy.clamp(-1, 1), mask), image, mask, paste_background=False)
    assert error(found, relit(image), mask) < 0.12 * error(image, relit(image), mask)


def test_no_change_stays_none():
    image, mask = picture(), ellipse()
    transform = fit_transform(image, image, mask)
    assert transform.log_gains.abs().max() < 1e-4 and transform.field.abs().max() == 0
    torch.testing.assert_close(apply_transform(transform, image, mask), image, rtol=0, atol=1e-4)


def test_strength_scales_the_change_and_none_is_exact():
    image, mask = picture(), ellipse()
    transform = fit_transform(image, relit(image), mask)
    assert torch.equal(apply_transform(transform.scaled(0), image, mask), image)
    sizes = [error(apply_transform(transform.scaled(s), image, mask), image, mask) for s in (0.5, 1, 1.5)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_uniform_light_has_no_field_and_a_gradient_has_one():
    image, mask = picture(), ellipse()
    assert fit_transform(image, relit(image), mask).field.abs().max() == 0
    slope = torch.exp(torch.linspace(-0.7, 0.7, 128))[None, None, None]
    real = relit(image, (0.5,) * 3, slope)
    transform = fit_transform(image, real, mask)
    flat = transform._replace(field=torch.zeros_like(transform.field))
    errors = [error(apply_transform(one, image, mask), real, mask) for one in (transform, flat)]
    assert errors[0] < 0.6 * errors[1]


def test_lifted_blacks_of_a_result_stay_black():
    image, mask = picture(), ellipse()
    image[..., 30:60, 40:60] = -1
    greyish = relit(image).clamp_min(-0.7)
    out = apply_transform(fit_transform(image, greyish, mask), image, mask)
    assert (out[..., 30:60, 40:60] + 1).abs().max() < 1e-5


def test_highlights_rise_without_a_plateau_and_without_passing_white():
    ramp = torch.linspace(-1, 1, 256)[None, None, None].expand(1, 3, 4, 256)
    brighter = fit_transform(picture(), relit(picture(), (1.6,) * 3), torch.ones(1, 1, 96, 128))
    out = apply_transform(brighter, ramp, torch.ones(1, 1, 4, 256))[0, 0, 0]
    assert out.max() <= 1 and (out.diff() >= -1e-6).all() and (out[:200].diff() > 0).all()


def test_background_is_exact_and_soft_edges_blend():
    image, mask = picture(), ellipse()
    transform = fit_transform(image, relit(image), mask)
    out = apply_transform(transform, image, mask)
    outside = (mask == 0).expand_as(out)
    assert torch.equal(out[outside], image[outside])
    whole = apply_transform(transform, image, mask, paste_background=False)
    torch.testing.assert_close(out, mask * whole + (1 - mask) * image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_strips_change_nothing(rows, monkeypatch):
    image, mask = picture(), ellipse()
    slope = torch.exp(torch.linspace(-0.7, 0.7, 128))[None, None, None]
    transform = fit_transform(image, relit(image, (0.5,) * 3, slope), mask)
    whole = apply_transform(transform, image, mask)
    monkeypatch.setattr(transfer, "STRIP_PIXELS", 128 * rows)
    torch.testing.assert_close(apply_transform(transform, image, mask), whole, rtol=0, atol=1e-5)


def test_grain_of_the_full_size_is_kept():
    original, mask = picture(384, 512), ellipse(384, 512)
    small = resize_image(original, (96, 128))
    out = apply_transform(fit_transform(small, relit(small), ellipse()), original, mask)
    assert error(out, relit(original), mask) < 0.1 * error(original, relit(original), mask)


def test_an_image_of_a_batch_is_as_alone_and_samples_are_averaged():
    images, mask = torch.cat([picture(seed=0), picture(seed=1)]), ellipse()
    results = torch.cat([relit(images[:1]), relit(images[1:], (1.0, 1.2, 0.7))])
    both = apply_transform(fit_transform(images, results, mask), images, mask)
    alone = apply_transform(fit_transform(images[1:], results[1:], mask), images[1:], mask)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)
    noise = 0.1 * torch.randn(results.shape, generator=torch.Generator().manual_seed(2))
    sampled = fit_transform(images, torch.stack([results + noise, results - noise]), mask)
    torch.testing.assert_close(sampled.log_gains, fit_transform(images, results, mask).log_gains, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_empty_masks(dtype):
    image, mask = picture().to(dtype), ellipse()
    transform = fit_transform(image, image, mask * 0)
    assert torch.equal(apply_transform(transform, image, mask), image) or torch.isfinite(apply_transform(transform, image, mask)).all()
    assert apply_transform(fit_transform(image, relit(image.float()), mask), image, mask).dtype == dtype


def test_refusals():
    image, mask = picture(), ellipse()
    with pytest.raises(ValueError, match="result must have the shape of image"):
        fit_transform(image, image[..., :64], mask)
    with pytest.raises(ValueError, match="mask must be as large as original"):
        apply_transform(fit_transform(image, image, mask), picture(48, 64), mask)
    for damaged in (image * float("nan"), image * 9):
        with pytest.raises(ValueError, match=r"result must lie in \[-1, 1\]"):
            transfer.transfer_light(image, mask, damaged)
    for strength in (-1, 9, float("nan"), True):
        with pytest.raises(ValueError, match="strength must be a number in 0..2"):
            transfer.transfer_light(image, mask, image, strength=strength)


def test_a_photograph_without_colour_stays_so_alone_and_in_a_batch():
    colour, mask = picture(), ellipse()
    grey = colour.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    images, results = torch.cat([grey, colour]), torch.cat([relit(grey), relit(colour)])
    for result in (results, torch.stack([results, results])):
        found = transfer_light(images, mask, result)
        assert (found[0].amax(0) - found[0].amin(0)).max() < 0.5 / 127.5
        assert error(found[:1], images[:1], mask) > 20
        torch.testing.assert_close(found[1:], transfer_light(colour, mask, result[..., 1:, :, :, :]), rtol=0, atol=1e-4)
