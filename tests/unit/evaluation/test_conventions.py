"""Each published convention against an implementation of its own: torchvision, scikit-image, torch, and figures that OpenCV gave.

tests/data/opencv_figures.json: whole conventions computed by cv2.resize (5.0.0, INTER_LINEAR, float32) and numpy on `case(...)`.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffharmony.evaluation import CONVENTIONS, measure, measure_arrays
from diffharmony.evaluation.conventions import opencv, pil, soft, two_level

PHOTOS = {"astronaut": (40, 90, 300, 220), "coffee": (20, 150, 251, 333), "chelsea": (30, 60, 230, 190)}  # top, left, height, width
FIGURES = ("psnr", "mse", "fmse", "bmse")
OPENCV = json.loads((Path(__file__).parents[2] / "data" / "opencv_figures.json").read_text())


def case(name):
    """A photograph's crop, a prediction whose foreground and background differ from it, and a soft-edged mask."""
    top, left, height, width = PHOTOS[name]
    real = getattr(skimage.data, name)()[top : top + height, left : left + width]
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((rows - 0.55 * height) / (0.3 * height), (columns - 0.45 * width) / (0.25 * width))
    mask = (np.clip(1.5 - distance, 0, 1) * 255).astype(np.uint8)
    changed = np.clip(real * np.array([0.8, 0.95, 1.1]) + 12, 0, 255)
    weight = mask[..., None] / 255
    prediction = (weight * changed + (1 - weight) * (real * 0.98 + 3)).astype(np.uint8)
    return tuple(map(Image.fromarray, (prediction, real, mask)))


def torchvision_floats(picture, side):
    """[C, H, W] float32 in 0..1, as data loaders built on torchvision give it."""
    if side is not None and picture.size != (side, side):
        picture = TF.resize(picture, [side, side], antialias=True)
    return TF.to_tensor(picture)


def torch_linear(picture, side):
    """[H, W, C] float64, 0..255."""
    pixels = torch.tensor(np.array(picture), dtype=torch.float64).reshape(picture.height, picture.width, -1).permute(2, 0, 1)[None]
    if side is not None:
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=False)
    return pixels[0].permute(1, 2, 0).numpy()


def diffharmony(prediction, real, mask, side, pasted):
    prediction, real = (np.asarray(TF.resize(one, [side, side], antialias=True) if side else one, np.float32) for one in (prediction, real))
    region = mask.convert("1")
    region = np.asarray(TF.resize(region, [side, side]) if side else region, np.float32)[..., None]
    if pasted:
        prediction = prediction * region + real * (1 - region)
    error, pixels = skimage.metrics.mean_squared_error, region.size
    return {
        "psnr": skimage.metrics.peak_signal_noise_ratio(real, prediction, data_range=255),
        "mse": error(real, prediction),
        "fmse": error(prediction * region, real * region) * pixels / region.sum(),
        "bmse": error(prediction * (1 - region), real * (1 - region)) * pixels / (1 - region).sum(),
    }


def is2am(prediction, real, mask, side, pasted, *, masked=False):
    prediction, real, weight = torch_linear(prediction, side), torch_linear(real, side), torch_linear(mask, side) / 255
    if pasted:
        prediction = prediction * weight + real * (1 - weight)
    squared = (prediction - real) ** 2
    mse = (weight * squared).mean() if masked else squared.mean()
    peak = 255 if masked else real.max()
    return {
        "psnr": 10 * math.log10(peak**2 / mse),
        "mse": mse,
        "fmse": (weight * squared).sum() / (3 * weight.sum()),
        "bmse": ((1 - weight) * squared).sum() / (3 * (1 - weight).sum()),
    }


def pctnet(*arguments):
    return is2am(*arguments, masked=True)


def hdnet(prediction, real, mask, side, pasted):
    prediction, real, region = (torchvision_floats(one, side) for one in (prediction, real, mask.convert("1")))
    if pasted:
        prediction = prediction * region + real * (1 - region)
    # a network's floats become a picture by a cast
    prediction, real = ((one.permute(1, 2, 0).numpy() * 255.0).astype(np.uint8) for one in (prediction, real))
    region = region[0].numpy()
    mse = skimage.metrics.mean_squared_error(prediction, real)
    outside = (prediction.astype(float) - real)[region == 0]
    return {
        "psnr": skimage.metrics.peak_signal_noise_ratio(real, prediction),
        "mse": mse,
        "fmse": mse * region.size / region.sum(),
        "bmse": (outside**2).mean(),
    }


def harmonizer(prediction, real, mask, side, pasted):
    prediction, real, region = (torchvision_floats(one, side) for one in (prediction, real, mask.convert("1")))
    if pasted:
        prediction = prediction * region + real * (1 - region)
    prediction, real, region = ((one * scale).permute(1, 2, 0).numpy() for one, scale in ((prediction, 255), (real, 255), (region, 1)))
    mse = skimage.metrics.mean_squared_error
    return {
        "psnr": skimage.metrics.peak_signal_noise_ratio(real, prediction, data_range=prediction.max() - prediction.min()),
        "mse": mse(prediction, real),
        "fmse": mse(prediction * region, real * region) * region.size / region.sum(),
        "bmse": mse(prediction * (1 - region), real * (1 - region)) * region.size / (1 - region).sum(),
    }


OWN = {"diffharmony": diffharmony, "is2am": is2am, "pctnet": pctnet, "hdnet": hdnet, "harmonizer": harmonizer}


def test_every_convention_has_an_implementation_to_compare_with():
    assert list(OWN) == list(CONVENTIONS)


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("side", [256, 64, None])
@pytest.mark.parametrize("name", OWN)
def test_agrees_with_an_independent_implementation(name, side, photo):
    prediction, real, mask = case(photo)
    for pasted in (False, True):
        expected = OWN[name](prediction, real, mask, side, pasted)
        found = measure(prediction, real, mask, name, size=side, real_background=pasted)
        for figure in FIGURES:
            assert getattr(found, figure) == pytest.approx(expected[figure], rel=1e-5, abs=1e-9), (figure, pasted)
    if side == 256:
        enlarged = prediction.resize((512, 512), Image.Resampling.BICUBIC)
        expected = OWN[name](enlarged, real, mask, side, False)
        found = measure(enlarged, real, mask, name, size=side, real_background=False)
        assert {figure: getattr(found, figure) for figure in FIGURES} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("key", OPENCV)
def test_agrees_with_opencv(key):
    name, photo, size = key.split()
    found = measure(*case(photo), name, size=None if size == "None" else int(size))
    assert {figure: getattr(found, figure) for figure in FIGURES} == pytest.approx(OPENCV[key], rel=1e-5)


def test_the_conventions_differ_where_the_table_says_so():
    """On soft masks no two rows of the table give the same figures."""
    prediction, real, mask = case("coffee")
    found = {name: measure(prediction, real, mask, name) for name in CONVENTIONS}
    assert len({round(one.psnr, 4) for one in found.values()}) == 4  # HDNet's and the paper's differ in fMSE without pasting only
    assert found["hdnet"].fmse == found["diffharmony"].fmse
    unpasted = {name: measure(prediction, real, mask, name, real_background=False).fmse for name in CONVENTIONS}
    assert unpasted["hdnet"] > unpasted["diffharmony"] == unpasted["harmonizer"]
    assert found["pctnet"].fmse == found["is2am"].fmse and found["pctnet"].mse < found["is2am"].mse
    assert [CONVENTIONS[name].real_background for name in OWN] == [True, False, False, True, False]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**31))
def test_opencv_rule_at_any_size(height, width, new_height, new_width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tensor = torch.tensor(pixels, dtype=torch.float64).permute(2, 0, 1)[None]
    expected = F.interpolate(tensor, size=(new_height, new_width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    assert np.abs(opencv(Image.fromarray(pixels), (new_width, new_height)) - expected).max() < 1e-3
    grey = Image.fromarray(pixels[..., 0])
    assert np.abs(soft(grey, (new_width, new_height)) - expected[..., 0] / 255).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 80), st.sampled_from(["L", "1", "RGB", "P", "LA"]), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_two_level_masks_are_pillows(height, width, side, mode, grey, seed):
    """Also where the shortcut for masks without grey is taken."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    mask = Image.fromarray(values if grey else np.where(values > 127, 255, 0).astype(np.uint8)).convert(mode)
    expected = np.asarray(mask.convert("1").resize((side, side), Image.Resampling.BILINEAR))
    assert np.array_equal(two_level(mask, (side, side)), expected)
    assert np.array_equal(two_level(mask, None), np.asarray(mask.convert("1")))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 24, 64]), st.sampled_from([pil, opencv]))
def test_a_box_holds_the_pixels_of_the_whole(data, height, width, side, rule):
    picture = Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8))
    left, top = (data.draw(st.integers(0, side - 1)) for _ in range(2))
    right, bottom = (data.draw(st.integers(start + 1, side)) for start in (left, top))
    whole = rule(picture, (side, side))
    assert np.array_equal(rule(picture, (side, side), (left, top, right, bottom)), whole[top:bottom, left:right])


def test_dithering_and_nearest_matter_at_soft_edges():
    _, _, mask = case("astronaut")
    rounded = np.asarray(mask.resize((64, 64), Image.Resampling.BILINEAR)) >= 128
    assert 0.005 < (two_level(mask, (64, 64)) != rounded).mean() < 0.2


def test_hdnet_truncates_floats_and_others_do_not():
    real = np.full((4, 4, 3), 100, np.uint8)
    prediction, mask = np.full((4, 4, 3), 102.9), np.ones((4, 4), bool)
    assert measure_arrays(prediction, real, mask, "hdnet").mse == 4
    for name in ("diffharmony", "is2am", "pctnet", "harmonizer"):
        assert measure_arrays(prediction, real, mask, name, real_background=False).mse == pytest.approx(2.9**2)


def test_peaks():
    real, prediction = np.full((2, 2, 3), 10.0), np.full((2, 2, 3), 12.0)
    real[0, 0], prediction[0, 0] = 50, 62
    mask = np.ones((2, 2))
    mse = (144 + 3 * 4) / 4
    peaks = {"diffharmony": 255, "is2am": 50, "pctnet": 255, "hdnet": 255, "harmonizer": 50}
    for name, peak in peaks.items():
        assert measure_arrays(prediction, real, mask, name).psnr == pytest.approx(10 * math.log10(peak**2 / mse)), name
    assert math.isnan(measure_arrays(prediction, np.zeros_like(real), mask, "is2am").psnr)
    assert math.isnan(measure_arrays(np.full((2, 2, 3), 9), real, mask, "harmonizer").psnr)


def test_pil_rule_rounds_to_8_bits_and_keeps_the_pictures_own_pixels():
    _, real, _ = case("chelsea")
    assert pil(real, (64, 64)).dtype == np.uint8
    assert np.array_equal(pil(real, None), np.asarray(real)) and np.array_equal(opencv(real, real.size), np.asarray(real))
