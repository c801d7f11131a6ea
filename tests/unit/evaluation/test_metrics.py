"""Figures of one image, their means, and baselines; each convention is in test_evaluation_conventions.py."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2lab

from diffharmony.evaluation import Measurement, colour_transfer, measure, measure_arrays, summarize
from diffharmony.evaluation.baselines import composite
from diffharmony.evaluation.metrics import PSNR_CAP, psnr, range_of


def picture(seed, width=300, height=200, mode="RGB"):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def test_own_size_needs_no_resampling():
    prediction, real = picture(1), picture(2)
    region = np.zeros((200, 300), bool)
    region[50:120, 30:200] = True
    found = measure(prediction, real, Image.fromarray(region), size=None, real_background=False)
    squared = (np.asarray(prediction, float) - np.asarray(real, float)) ** 2
    assert found.mse == pytest.approx(squared.mean())
    assert found.fmse == pytest.approx(squared[region].mean())
    assert found.bmse == pytest.approx(squared[~region].mean())
    assert found.psnr == pytest.approx(20 * math.log10(255) - 10 * math.log10(squared.mean()))


def test_the_convention_pastes_the_real_background_unless_told_otherwise():
    prediction, real = picture(1), picture(2)
    mask = Image.new("L", real.size, 0)
    mask.paste(255, (0, 0, 150, 200))
    assert measure(prediction, real, mask).bmse == 0
    assert measure(prediction, real, mask, real_background=False).bmse > 0
    assert measure(prediction, real, mask).fmse == measure(prediction, real, mask, real_background=False).fmse


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_whole_error_is_the_regions_weighted_by_their_shares(seed, share):
    rng = np.random.default_rng(seed)
    prediction, real = rng.integers(0, 256, (2, 9, 11, 3))
    found = measure_arrays(prediction, real, rng.random((9, 11)) < share, real_background=False)
    parts = [weight * error for weight, error in ((found.foreground, found.fmse), (1 - found.foreground, found.bmse)) if weight > 0]
    assert found.mse == pytest.approx(sum(parts))


def test_equal_images_get_the_cap():
    real = picture(1)
    found = measure(real, real, Image.new("L", real.size, 255))
    assert (found.psnr, found.mse, found.fmse) == (PSNR_CAP, 0, 0)
    assert psnr(1.0) == pytest.approx(48.1308, abs=1e-4)


def test_empty_and_full_masks_leave_out_what_they_do_not_have():
    prediction, real = picture(1), picture(2)
    empty = measure(prediction, real, Image.new("L", real.size, 0), real_background=False)
    full = measure(prediction, real, Image.new("L", real.size, 255))
    assert math.isnan(empty.fmse) and empty.bmse == pytest.approx(empty.mse)
    assert math.isnan(full.bmse) and full.fmse == pytest.approx(full.mse)
    both = summarize([empty, full])
    assert both["count"] == 2 and both["fMSE"] == full.fmse and both["bMSE"] == empty.bmse
    assert summarize([empty])["fMSE"] is None
    assert summarize([]) == {"PSNR": None, "MSE": None, "fMSE": None, "bMSE": None, "count": 0}


def test_psnr_is_averaged_over_images():
    items = [Measurement(30.0, 65.0, 1, 1, 0.1), Measurement(40.0, 6.5, 1, 1, 0.1)]
    assert summarize(items)["PSNR"] == 35.0


@pytest.mark.parametrize("share, name", [(0, "0-5"), (0.0499, "0-5"), (0.05, "5-15"), (0.1499, "5-15"), (0.15, "15-100"), (1, "15-100")])
def test_foreground_ranges(share, name):
    assert range_of(share) == name


def test_what_cannot_be_measured_is_refused():
    real = picture(1)
    mask = Image.new("L", real.size, 255)
    with pytest.raises(ValueError, match="convention must be one of diffharmony, is2am, pctnet, hdnet, harmonizer, got 'ours'"):
        measure(real, real, mask, "ours")
    with pytest.raises(ValueError, match="one size"):
        measure(picture(1, 512, 512), real, mask, size=None)
    with pytest.raises(ValueError, match="size must be"):
        measure(real, real, mask, size=0)
    with pytest.raises(ValueError, match=r"prediction must have the real image's shape \[4, 4, 3\]"):
        measure_arrays(np.zeros((4, 5, 3)), np.zeros((4, 4, 3)), np.ones((4, 4)))
    with pytest.raises(ValueError, match="mask must have the real image's size"):
        measure_arrays(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), np.ones((4, 4, 1)))


def test_colour_transfer_gives_the_foreground_the_backgrounds_statistics():
    rng = np.random.default_rng(0)
    region = np.zeros((64, 64), bool)
    region[10:40, 20:50] = True
    image = np.where(region[..., None], rng.normal((150, 90, 80), 12, (64, 64, 3)), rng.normal((110, 120, 130), 20, (64, 64, 3)))
    image = image.clip(0, 255).astype(np.uint8)
    result = colour_transfer(image, region)
    lab = rgb2lab(result)
    assert np.array_equal(result[~region], image[~region])
    assert lab[region].mean(axis=0) == pytest.approx(lab[~region].mean(axis=0), abs=0.5)
    assert lab[region].std(axis=0) == pytest.approx(lab[~region].std(axis=0), rel=0.05)


def test_colour_transfer_where_there_is_little_to_match():
    image = np.asarray(picture(1))
    for region in (np.zeros(image.shape[:2], bool), np.ones(image.shape[:2], bool)):
        assert np.array_equal(colour_transfer(image, region), image)
    region = np.zeros(image.shape[:2], bool)
    region[:50] = True
    flat = image.copy()
    flat[region] = 128
    result = colour_transfer(flat, region)
    assert np.ptp(result[region], axis=0).max() == 0 and np.array_equal(result[~region], flat[~region])
    assert np.array_equal(composite(image, region), image)
    with pytest.raises(ValueError, match="image must be uint8"):
        colour_transfer(image / 255, region)
    with pytest.raises(ValueError, match="mask must be bool"):
        colour_transfer(image, region.astype(np.uint8))
