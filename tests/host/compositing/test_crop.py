"""Crop Foreground and Stitch Foreground in a real ComfyUI: the windows are the library's, and what is outside the mask comes back exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.diffusion.crop import crop_foregrounds, stitch_crops
from diffharmony.tests.host.prompts import added, changed, node, transferred
from diffharmony.tests.host.test_workflow import TOLERANCE, as_tensor

CONTEXT = 2.0


@pytest.fixture(scope="module")
def pictures(server, tmp_path_factory):
    """A picture and a mask of two foregrounds, one with a soft edge, in the server's input folder."""
    folder = tmp_path_factory.mktemp("crop")
    picture = np.random.default_rng(3).integers(0, 256, (180, 240, 3), dtype=np.uint8)
    mask = np.zeros((180, 240), dtype=np.uint8)
    mask[10:40, 15:50] = 255
    mask[120:150, 180:220] = 255
    mask[150:153, 180:220] = 100
    Image.fromarray(picture).save(folder / "wide.png")
    Image.fromarray(mask).save(folder / "two.png")
    for path in folder.glob("*.png"):
        server.add_input(path)
    return picture, mask


def prompt(**stitch):
    made = {
        "image": node("LoadImage", image="wide.png"),
        "mask": node("LoadImageMask", image="two.png", channel="red"),
        "crop": node("DiffHarmonyCropForeground", image=["image", 0], mask=["mask", 0], context=CONTEXT, min_size=64),
        "inverted": node("ImageInvert", image=["crop", 0]),
        "stitch": node("DiffHarmonyStitchForeground", images=["inverted", 0], crops=["crop", 2]),
        "windows": node("SaveImage", images=["crop", 0], filename_prefix="window"),
        "whole": node("SaveImage", images=["stitch", 0], filename_prefix="stitched"),
    }
    return changed(made, stitch=stitch)


def test_each_foreground_gets_its_window_and_goes_back_by_its_mask(run, pictures):
    picture, mask = pictures
    result = run(prompt())
    image, weight = as_tensor(picture), as_tensor(mask)
    crops = crop_foregrounds(weight, CONTEXT)
    windows = [crop.of(image)[0].movedim(0, -1).mul(255).round().to(torch.uint8).numpy() for crop in crops]
    assert len(crops) == 2 and all(np.array_equal(found, window) for found, window in zip(result.images["windows"], windows, strict=True))
    expected = stitch_crops(image, weight, crops, [1 - crop.of(image) for crop in crops])[0].movedim(0, -1).numpy() * 255
    found = result.images["whole"][0]
    assert np.abs(found - expected).max() <= TOLERANCE
    assert np.array_equal(found[mask == 0], picture[mask == 0])


def test_the_round_trip_gives_every_pixel_back(run, pictures):
    found = run(prompt(images=["crop", 0])).images["whole"][0]
    picture, mask = pictures
    hard = (mask == 0) | (mask == 255)
    assert np.array_equal(found[hard], picture[hard]) and np.abs(found.astype(int) - picture).max() <= 1


def test_another_mask_may_say_what_goes_back(run, pictures):
    picture, mask = pictures
    everything = added(prompt(mask=["all", 0]), all=node("SolidMask", value=1.0, width=240, height=180))
    found = run(everything).images["whole"][0]
    inside = np.zeros(mask.shape, dtype=bool)
    for crop in crop_foregrounds(as_tensor(mask), CONTEXT):
        inside[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = True
    assert np.abs(found[inside].astype(int) - (255 - picture[inside])).max() <= 1  # the host cuts 8 bits off
    assert np.array_equal(found[~inside], picture[~inside])


def test_every_window_is_harmonized(run, pictures):
    """What stands between both nodes runs once for each window."""
    small = changed(
        transferred(composite="wide.png", mask="two.png"),
        working={"image": ["crop", 0], "mask": ["crop", 1], "size": 64},
        transfer={"image": ["crop", 0], "mask": ["crop", 1]},
        conditional={"images": ["stitch", 0]},
    )
    small = added(
        small,
        crop=node("DiffHarmonyCropForeground", image=["composite", 0], mask=["mask", 0], context=CONTEXT, min_size=64),
        stitch=node("DiffHarmonyStitchForeground", images=["transfer", 0], crops=["crop", 2]),
    )
    picture, mask = pictures
    found = run(small).images["conditional"][0]
    assert np.array_equal(found[mask == 0], picture[mask == 0])
    for part in (np.s_[10:40, 15:50], np.s_[120:150, 180:220]):
        assert not np.array_equal(found[part], picture[part])


@pytest.mark.parametrize(("changes", "message"), [
    ({"stitch": {"images": ["image", 0]}}, "images must be one for each crop, got 1 for 2"),
    ({"inverted": {"image": ["scaled", 0]}}, "result must have its crop's shape"),
    ({"crop": {"mask": ["image", 1]}}, "mask must have foreground (white"),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_refused(error_of, pictures, changes, message):
    others = {
        "scaled": node("ImageScale", image=["crop", 0], upscale_method="bilinear", width=64, height=64, crop="disabled"),
    }
    assert message in error_of(changed(added(prompt(), **others), **changes))
