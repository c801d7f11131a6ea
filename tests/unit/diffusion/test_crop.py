"""Crops around small foregrounds: where they lie, and that nothing outside the mask changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.diffusion.crop import SMALLEST_SIDE, Crop, crop_foregrounds, planned_crops, stitch_crops


def mask_of(*boxes, height=300, width=400, value=1.0):
    """[1, 1, H, W] with rectangles (top, left, bottom, right)."""
    mask = torch.zeros(1, 1, height, width)
    for top, left, bottom, right in boxes:
        mask[..., top:bottom, left:right] = value
    return mask


@pytest.mark.parametrize(("boxes", "context", "expected"), [
    ([(140, 180, 160, 220)], 3.0, [(90, 140, 120, 120)]),
    ([(0, 0, 40, 40)], 2.0, [(0, 0, 80, 80)]),
    ([(260, 380, 300, 400)], 2.0, [(220, 320, 80, 80)]),
    ([(148, 198, 150, 200)], 3.0, [(117, 167, 64, 64)]),
    ([(20, 100, 280, 140)], 2.0, [(0, 0, 300, 400)]),
    ([(20, 20, 40, 40), (200, 300, 240, 340)], 2.0, [(180, 280, 80, 80), (0, 0, 64, 64)]),
    ([(20, 20, 40, 40), (30, 50, 50, 70)], 3.0, [(0, 0, 150, 150)]),
    ([], 3.0, []),
], ids=str)  # fmt: skip
def test_windows(boxes, context, expected):
    assert crop_foregrounds(mask_of(*boxes), context) == [Crop(0, *window) for window in expected]


def test_a_window_is_not_smaller_than_asked():
    mask = mask_of((140, 180, 160, 220))
    assert crop_foregrounds(mask, 3.0, 200) == [Crop(0, 50, 100, 200, 200)]
    assert crop_foregrounds(mask, 3.0, 350) == [Crop(0, 0, 25, 300, 350)]
    assert planned_crops(mask, "auto", True, 200) == [Crop(0, 50, 100, 200, 200)] and planned_crops(mask, "auto", True, 400) == []


def test_faint_marks_count_neither_as_a_foreground_nor_to_its_extent():
    mask = torch.maximum(mask_of((140, 180, 160, 220)), mask_of((0, 0, 300, 400), value=0.02))
    assert crop_foregrounds(mask, 3.0) == [Crop(0, 90, 140, 120, 120)]
    soft = torch.maximum(mask_of((140, 180, 160, 220)), mask_of((140, 180, 160, 240), value=0.3))
    assert crop_foregrounds(soft, 2.0) == [Crop(0, 90, 150, 120, 120)]
    assert crop_foregrounds(mask_of((140, 180, 160, 220), value=0.3), 3.0) == []


def test_a_mask_of_dust_is_taken_whole():
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., ::9, ::9] = 1
    assert len(crop_foregrounds(mask, 1.0)) == 1


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 900), count=st.integers(0, 6), context=st.floats(1, 10), seed=st.integers(0, 999))
def test_every_foreground_lies_in_one_window_inside_the_image_and_nothing_outside_changes(height, width, count, context, seed):
    generator = torch.Generator().manual_seed(seed)
    mask, original = torch.zeros(1, 1, height, width), torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    for _ in range(count):
        top, left = (int(torch.randint(length, (), generator=generator)) for length in (height, width))
        mask[..., top : top + 9, left : left + 14] = 0.7
    crops = crop_foregrounds(mask, context)
    covered = torch.zeros_like(mask)
    for crop in crops:
        assert crop.of(original).shape == (1, 3, crop.height, crop.width)
        assert crop.height == min(height, max(crop.height, crop.width)) and max(crop.height, crop.width) >= min(SMALLEST_SIDE, max(height, width))
        crop.of(covered).fill_(1)
    assert (covered >= (mask > 0).float()).all()
    stitched = stitch_crops(original, mask, crops, [torch.ones_like(crop.of(original)) for crop in crops])
    outside = (mask == 0).expand_as(original)
    assert torch.equal(stitched[outside], original[outside])
    torch.testing.assert_close(stitched, mask + (1 - mask) * original)
    hard = (mask > 0).float()
    assert torch.equal(stitch_crops(original, hard, crops, [crop.of(original) for crop in crops]), original)


def test_a_batch_has_windows_of_each_image():
    masks = torch.cat([mask_of((10, 10, 50, 50)), mask_of((10, 10, 20, 20), (200, 300, 230, 330))])
    crops = crop_foregrounds(masks, 2.0)
    assert [crop.index for crop in crops] == [0, 1, 1]
    original = torch.zeros(2, 3, 300, 400)
    stitched = stitch_crops(original, masks, crops, [torch.full((1, 3, crop.height, crop.width), number) for number, crop in enumerate(crops, 1)])
    assert [stitched[index, 0, y, x].item() for index, y, x in ((0, 20, 20), (1, 15, 15), (1, 210, 310), (1, 0, 0))] == [1, 3, 2, 0]


def test_which_images_are_cropped_without_being_asked():
    small, large = mask_of((10, 10, 50, 50)), mask_of((0, 0, 200, 300))
    assert planned_crops(small, None, True) == planned_crops(large, "auto", True) == planned_crops(small, "auto", False) == []
    assert planned_crops(small, "auto", True) == crop_foregrounds(small)
    both = planned_crops(torch.cat([large, small]), "auto", True)
    assert both == [Crop(0, 0, 0, 300, 400), crop_foregrounds(small)[0]._replace(index=1)]
    assert planned_crops(large, 1.5, True) == [Crop(0, 0, 0, 300, 400)]


@pytest.mark.parametrize(("crop", "paste", "message"), [
    (0.5, True, "crop must be a context factor in 1..10, 'auto' or None, got 0.5"),
    (True, True, "crop must be a context factor"),
    ("always", True, "crop must be a context factor"),
    (float("nan"), True, "crop must be a context factor"),
    (2.0, False, "crop must be None or 'auto' where the background changes too, got 2.0"),
], ids=str)  # fmt: skip
def test_options_that_do_not_fit_are_refused(crop, paste, message):
    with pytest.raises(ValueError, match=message):
        planned_crops(mask_of((10, 10, 50, 50)), crop, paste)


def test_a_result_of_another_size_is_refused():
    mask = mask_of((10, 10, 50, 50))
    with pytest.raises(ValueError, match=r"result must have its crop's shape \[1, 3, 120, 120\], got \[1, 3, 60, 60\]"):
        stitch_crops(torch.zeros(1, 3, 300, 400), mask, crop_foregrounds(mask, 3.0), [torch.zeros(1, 3, 60, 60)])
