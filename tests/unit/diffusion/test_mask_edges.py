"""Masks inverted, grown, shrunk and feathered."""

import pytest
import torch

from diffharmony.diffusion.mask_edges import edit_mask, feather_mask, grow_mask


def disc(radius, size=81, centre=(40, 40)):
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) - c for c in centre), indexing="ij")
    return (y.square() + x.square() <= radius**2).float()[None, None]


@pytest.mark.parametrize("pixels", [1, 7, 20])
def test_a_disc_grows_and_shrinks_by_as_many_pixels_on_all_sides(pixels):
    """An octagon around a disc: between the disc that much larger and 9 % more."""
    grown = grow_mask(disc(15), pixels)
    assert (grown >= disc(15 + pixels - 0.6)).all()
    assert (grown <= disc(15 + 1.09 * pixels + 0.6)).all()
    if pixels < 15:
        shrunk = grow_mask(disc(15), -pixels)
        assert (shrunk <= disc(15 - pixels + 0.6)).all()
        assert (shrunk >= disc(15 - 1.09 * pixels - 1)).all()
    assert torch.equal(grow_mask(disc(15), 0), disc(15))


def test_soft_edges_stay_soft_and_borders_hold():
    soft = torch.zeros(2, 1, 20, 30)
    soft[0, 0, :, :10] = 1
    soft[0, 0, :, 10] = 0.25
    expected = soft.clone()
    expected[0, 0, :, :13], expected[0, 0, :, 13] = 1, 0.25
    assert torch.equal(grow_mask(soft, 3), expected)
    expected[0, 0] = 0
    expected[0, 0, :, :7], expected[0, 0, :, 7] = 1, 0.25
    assert torch.equal(grow_mask(soft, -3), expected)
    feathered = feather_mask(soft, 4)
    assert (feathered[0, 0, :, 0] == 1).all(), "nothing is softened at the image's border"
    assert feathered[1].max() == 0


def test_feathering_reaches_as_far_as_it_says_and_keeps_the_middle_of_the_edge():
    half = torch.zeros(1, 1, 40, 60)
    half[..., :30] = 1
    line = feather_mask(half, 8)[0, 0, 20]
    assert (line.diff() <= 1e-6).all() and line.min() >= 0 and line.max() <= 1
    assert line[21] > 0.999 and line[38] == 0
    assert 0.4 < line[30] < 0.5 < line[29] < 0.6
    assert torch.equal(feather_mask(half, 0), half)


def test_invert_comes_first():
    mask = disc(15)
    assert torch.equal(edit_mask(mask, invert=True, grow=4), grow_mask(1 - mask, 4))
    assert torch.allclose(edit_mask(mask, invert=True), 1 - mask)


@pytest.mark.parametrize(("change", "pixels"), [(grow_mask, 257), (grow_mask, -257), (feather_mask, -1), (feather_mask, 1.5), (grow_mask, True)])
def test_other_numbers_are_refused(change, pixels):
    with pytest.raises(ValueError, match="must be a whole number of pixels in"):
        change(disc(3), pixels)
