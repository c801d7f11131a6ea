"""What the evaluator leaves undone may not be seen: parts of resized pictures and of dithered masks are those of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from diffharmony.evaluation import resizing
from diffharmony.evaluation.conventions import two_level
from diffharmony.evaluation.resizing import resize_part


def noise(width, height, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 96), st.integers(1, 96), st.data())
def test_parts_are_those_of_the_whole(width, height, across, down, data):
    left, top = data.draw(st.integers(0, across - 1)), data.draw(st.integers(0, down - 1))
    box = left, top, data.draw(st.integers(left + 1, across)), data.draw(st.integers(top + 1, down))
    for seed in range(3):  # the first of a size is resized whole, and shows how the others can be
        image = noise(width, height, seed)
        whole = np.asarray(image.resize((across, down), Image.Resampling.BILINEAR))
        assert np.array_equal(resize_part(image, (across, down), box), whole[box[1] : box[3], box[0] : box[2]])


@pytest.mark.parametrize("width, height", [(640, 480), (130, 600)])
def test_a_size_is_learnt_from_a_picture_that_shows_it(width, height, monkeypatch):
    monkeypatch.setattr(resizing, "_ways", {})
    box = 20, 40, 61, 75
    resize_part(Image.new("RGB", (width, height), (9, 90, 200)), (96, 96), box)
    assert not resizing._ways
    resize_part(noise(width, height, 0), (96, 96), box)
    (way,) = resizing._ways.values()
    assert way in (resizing._across_first, resizing._down_first)


def test_another_way_to_resize_is_left_to_pillow(monkeypatch):
    monkeypatch.setattr(resizing, "_ways", {})
    monkeypatch.setattr(resizing, "_reach", lambda first, last, length, to: (first, first + 1))  # which is wrong
    image, box = noise(300, 200, 0), (20, 40, 61, 75)
    for _ in range(2):
        whole = np.asarray(image.resize((96, 96), Image.Resampling.BILINEAR))
        assert np.array_equal(resize_part(image, (96, 96), box), whole[40:75, 20:61])
    assert set(resizing._ways.values()) == {resizing._whole}


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_masks_with_a_black_surround_are_dithered_as_a_whole(width, height, seed):
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (width, height))
    for _ in range(rng.integers(0, 4)):
        (x, y), (rx, ry) = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0, 0.4, 2) * (width, height)
        ImageDraw.Draw(mask).ellipse((x - rx, y - ry, x + rx, y + ry), fill=int(rng.choice([255, 128, 129, rng.integers(256)])))
    for one in (mask, mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))):
        assert np.array_equal(two_level(one, None), np.asarray(one.convert("1")))
