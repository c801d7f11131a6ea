"""Images and masks: files in and out, pasting, padding, refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from diffharmony.common.images import (
    check_image_path,
    eight_bit,
    image_info,
    load_image,
    load_mask,
    open_image,
    pad_to_multiple,
    paste_background,
    resize_image,
    resize_mask,
    save_image,
    tensor_to_pil,
)
from diffharmony.common.masks import binarize_mask, check_image_and_mask, mask_to_latent

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def as_8_bit(image):
    return ((image[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)


def test_a_saved_png_comes_back_exactly(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.shape == (1, 3, 5, 7) and image.dtype == torch.float32
    assert image.min() >= -1 and image.max() <= 1
    save_image(image, tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), RGB)
    assert torch.equal(load_image(tmp_path / "b.png"), image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    picture = Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    assert np.array_equal(as_8_bit(load_image(tmp_path / f"a.{suffix}")), np.asarray(picture.convert("RGB")))


def test_transparency_is_dropped(tmp_path):
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "a.png")
    assert np.array_equal(as_8_bit(load_image(tmp_path / "a.png")), RGB)


def test_16_bit_grey_keeps_its_range(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = torch.from_numpy(values / np.float32(65535))
    torch.testing.assert_close(load_mask(tmp_path / "a.png")[0, 0], expected)
    torch.testing.assert_close(load_image(tmp_path / "a.png")[0, 2], expected * 2 - 1)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(GREY).save(tmp_path / "mask.png", exif=exif)
    assert load_image(tmp_path / "a.png").shape == (1, 3, 7, 5)
    assert load_mask(tmp_path / "mask.png").shape == (1, 1, 7, 5)


@pytest.mark.parametrize("orientation", range(9))
def test_every_orientation_turns_as_pillow_turns(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), expected)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0", b"Exif\0\0nonsense", b"\0" * 8])
def test_a_damaged_exif_is_none(tmp_path, suffix, exif):
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", exif=exif)
    assert load_image(tmp_path / f"a.{suffix}").shape == (1, 3, 5, 7)


def test_a_damaged_exif_is_not_told_of(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    code = f"from diffharmony.common.pictures import open_image; print(open_image({str(tmp_path / 'a.jpg')!r}).size)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "(7, 5)\n" and not found.stderr


def test_masks_keep_soft_values(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert torch.equal(load_mask(tmp_path / "a.png")[0, 0], torch.from_numpy(GREY / np.float32(255)))


def test_a_mask_drawn_as_transparency_is_read(tmp_path):
    Image.fromarray(np.dstack([np.full_like(RGB, 255), GREY])).save(tmp_path / "a.png")
    assert torch.equal(load_mask(tmp_path / "a.png")[0, 0], torch.from_numpy(GREY / np.float32(255)))
    Image.fromarray(np.dstack([np.repeat(GREY[..., None], 3, 2), np.full_like(GREY, 255)])).save(tmp_path / "b.png")
    assert torch.equal(load_mask(tmp_path / "b.png")[0, 0], torch.from_numpy(GREY / np.float32(255)))


def test_an_opened_16_bit_picture_becomes_8_bits_without_clipping(tmp_path):
    Image.fromarray(np.array([[0, 19660, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(eight_bit(open_image(tmp_path / "a.png"))).tolist() == [[0, 76, 255]]
    assert np.array_equal(np.asarray(eight_bit(Image.fromarray(RGB))), RGB)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_colour_profile_and_resolution_are_carried_over(tmp_path, suffix):
    profile = b"\0" * 16 + b"RGB XYZ " + b"\0" * 104
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=profile, dpi=(300, 300))
    save_image(torch.zeros(1, 3, 4, 4), tmp_path / f"b{suffix}", image_info(tmp_path / "a.png"))
    saved = image_info(tmp_path / f"b{suffix}")
    assert saved["icc_profile"] == profile
    assert suffix == ".webp" or saved["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_what_does_not_fit_an_rgb_picture_is_not_carried_over(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=b"\0" * 16 + b"CMYKLab " + b"\0" * 104, dpi=(0, 0))
    assert image_info(tmp_path / "a.jpg") == {}
    Image.fromarray(RGB).save(tmp_path / "b.png")
    assert image_info(tmp_path / "b.png") == {}


def test_a_folder_is_no_image_to_write(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ValueError, match="image to write must be a file, got the folder"):
        check_image_path(tmp_path / "a.png")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_found_out_first():
    with pytest.raises(PermissionError, match="folder of 'a.png' must be one that can be written to, got /proc"):
        check_image_path("/proc/a.png")


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png.*looked in"):
        load_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png must be a readable image"):
        load_mask(tmp_path / "text.png")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating values"):
        load_image(tmp_path / "float.tif")


def test_unsavable_images_are_refused_and_leave_nothing(tmp_path):
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="must end in"):
        save_image(image, tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="Create it first"):
        save_image(image, tmp_path / "no" / "a.png")
    with pytest.raises(ValueError, match=r"shape \[1, 3, H, W\]"):
        save_image(torch.zeros(2, 3, 4, 4), tmp_path / "a.png")
    with pytest.raises(ValueError, match="finite"):
        save_image(image * float("nan"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_8_bit_rounding_is_to_the_nearest():
    values = torch.tensor([-1.2, -1.0, -1 + 0.6 / 127.5, 0.999, 1.7]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert np.asarray(tensor_to_pil(values)[0])[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**16),
       st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_pasting_leaves_the_background_bit_for_bit(batch, height, width, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    composite = (torch.rand(batch, 3, height, width, generator=generator) * 2 - 1).to(dtype)
    harmonized = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    mask = (torch.rand(batch, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    pasted = paste_background(harmonized, composite, mask)
    assert pasted.dtype == dtype
    outside, inside = (mask == 0).expand_as(pasted), (mask == 1).expand_as(pasted)
    assert torch.equal(pasted[outside], composite[outside])
    assert torch.equal(pasted[inside], harmonized.to(dtype)[inside])
    blend = mask * harmonized + (1 - mask) * composite.float()
    torch.testing.assert_close(pasted.float(), blend, rtol=0, atol=1e-2 if dtype != torch.float32 else 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 16, 64]))
def test_padding_reaches_the_multiple_and_crops_back(height, width, multiple):
    image = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert torch.equal(padded[..., :height, :width], image)
    assert set(padded.unique().tolist()) <= set(image.unique().tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_resizing_keeps_constants_and_range(height, width, new_height, new_width):
    image = torch.full((1, 3, height, width), 0.25)
    resized = resize_image(image, (new_height, new_width))
    assert resized.shape == (1, 3, new_height, new_width)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.25), rtol=0, atol=1e-5)
    mask = resize_mask((torch.rand(1, 1, height, width) > 0.5).float(), (new_height, new_width))
    assert mask.min() >= 0 and mask.max() <= 1


def test_shrinking_averages_instead_of_skipping():
    stripes = torch.tensor([-1.0, 1.0]).repeat(32).expand(1, 3, 64, 64)
    assert resize_image(stripes, (8, 8)).abs().max() < 0.2


def test_half_is_foreground():
    mask = torch.tensor([0.0, 0.4999, 0.5, 1.0])
    assert binarize_mask(mask).tolist() == [0, 0, 1, 1]
    assert binarize_mask(mask > 0.1).tolist() == [0, 1, 1, 1]


def test_mask_is_binarized_before_it_shrinks():
    mask = torch.full((1, 1, 16, 16), 0.4)
    mask[..., :8, :8] = 0.6
    assert mask_to_latent(mask, (2, 2)).tolist() == [[[[1, 0], [0, 0]]]]


@pytest.mark.parametrize(("image", "mask", "message"), [
    (torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), r"composite must have shape \[B, 3, H, W\]"),
    (torch.zeros(1, 4, 4, 4), torch.zeros(1, 1, 4, 4), "composite must have shape"),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 4, 4), "composite must be a floating tensor"),
    (torch.zeros(1, 3, 0, 4), torch.zeros(1, 1, 0, 4), "composite must not be empty"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), "mask must have shape"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 5, 4), "mask must be as large as composite .4 x 4 px.*got 4 x 5 px"),
    (torch.zeros(3, 3, 4, 4), torch.zeros(2, 1, 4, 4), "mask must have batch 1 or 3, got 2"),
    (torch.zeros(1, 3, 4, 4), torch.full((1, 1, 4, 4), 255.0), r"mask must lie in \[0, 1\]"),
    (torch.zeros(1, 3, 4, 4), torch.full((1, 1, 4, 4), float("nan")), r"mask must lie in \[0, 1\]"),
    (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "Divide an 8-bit mask by 255"),
])
def test_pairs_that_do_not_fit_are_refused(image, mask, message):
    with pytest.raises(ValueError, match=message):
        check_image_and_mask(image, mask)


@pytest.mark.parametrize("batches", [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_batch_one_goes_with_any_batch(batches):
    image, mask = check_image_and_mask(torch.zeros(batches[0], 3, 4, 4), torch.ones(batches[1], 1, 4, 4, dtype=torch.bool))
    assert image.shape[0] == mask.shape[0] == max(batches)
    assert mask.dtype == torch.float32
