"""The run-length code, against an encoder and a decoder that go pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.inverse.human_harmony.rle import RunMask, merge_runs, parse_runs
from diffharmony.tests.made.human_harmony import encode


@st.composite
def masks(draw, count=1):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    pixels = st.lists(st.booleans(), min_size=height * width, max_size=height * width)
    return [np.array(draw(pixels)).reshape(height, width) for _ in range(count)]


def decode(text, height, width):
    """Pixel by pixel, 1-based and column-major."""
    mask = np.zeros((height, width), bool)
    numbers = [int(field) for field in text.split()]
    for start, length in zip(numbers[0::2], numbers[1::2]):
        for position in range(start - 1, start - 1 + length):
            mask[position % height, position // height] = True
    return mask


def union(texts, height, width):
    return RunMask(merge_runs(*(parse_runs(text, height, width) for text in texts)), height, width)


def test_by_hand_counted_from_1_and_down_the_columns():
    # of 3 rows and 4 columns: pixel 2 is row 1 of column 0, pixels 6 to 8 are row 2 of column 1 and rows 0, 1 of column 2
    mask = union(["2 1 6 3"], 3, 4)
    expected = [[0, 0, 255, 0], [255, 0, 255, 0], [0, 255, 0, 0]]
    assert mask.pixels().tolist() == expected and mask.pixels().dtype == np.uint8
    assert mask.share == pytest.approx(4 / 12) and mask.size == (4, 3)
    assert union(["1 1"], 2, 3).pixels()[0, 0] == 255 and union(["6 1"], 2, 3).pixels()[1, 2] == 255


@given(masks())
def test_round_trip(drawn):
    (mask,) = drawn
    height, width = mask.shape
    if not mask.any():
        with pytest.raises(ValueError, match="got none"):
            parse_runs(encode(mask), height, width)
        return
    found = union([encode(mask)], height, width)
    assert np.array_equal(found.pixels() == 255, mask) and found.share == mask.mean()


@given(masks(count=3))
def test_the_union_of_overlapping_parts(drawn):
    height, width = drawn[0].shape
    texts = [encode(mask) for mask in drawn if mask.any()]
    if texts:
        expected = np.logical_or.reduce([mask for mask in drawn if mask.any()])
        found = union(texts, height, width)
        assert np.array_equal(found.pixels() == 255, expected) and found.share == expected.mean()


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 42), st.integers(1, 42)), min_size=1, max_size=8))
def test_runs_in_any_order_overlapping_or_touching(runs):
    runs = [(start, min(length, 43 - start)) for start, length in runs]
    text = " ".join(f"{start} {length}" for start, length in runs)
    merged = merge_runs(parse_runs(text, 6, 7))
    assert (merged[1:, 0] > merged[:-1, 1]).all()
    assert np.array_equal(RunMask(merged, 6, 7).pixels() == 255, decode(text, 6, 7))


def test_nothing_merged_is_nothing():
    assert merge_runs().shape == (0, 2)


@pytest.mark.parametrize(("text", "message"), [
    ("", "must hold \"start length\" pairs, got none"),
    ("  ", "got none"),
    ("1 2 3", "an even number of fields, got 3"),
    ("7", "an even number of fields, got 1"),
    ("1 x", "must be whole numbers, got 'x'"),
    ("1.5 2", "must be whole numbers, got '1.5'"),
    ("1,2", "must be whole numbers, got '1,2'"),
    ("nan 2", "must be whole numbers, got 'nan'"),
    ("1e3 2", "must be whole numbers, got '1e3'"),
    ("١ ٢", "must be whole numbers"),
    ("-1 2", "must be numbers of at least 1, got '-1'"),
    ("0 2", "must lie within pixels 1 to 12 of 4 x 3, got 0 2"),
    ("3 0", "must lie within pixels 1 to 12 of 4 x 3, got 3 0"),
    ("12 2", "must lie within pixels 1 to 12 of 4 x 3, got 12 2"),
    ("13 1", "must lie within pixels 1 to 12 of 4 x 3, got 13 1"),
    ("1 1 9223372036854775807 9223372036854775807", "must lie within pixels"),
    ("99999999999999999999999999 1", "must lie within pixels"),
    ("1 99999999999999999999999999", "must lie within pixels"),
])  # fmt: skip
def test_damaged_codes_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_runs(text, 3, 4)


@pytest.mark.parametrize("text", ["12 1", "1 12", " 1  12 ", "1\t12"])
def test_the_last_pixel_belongs_to_the_image(text):
    assert union([text], 3, 4).pixels()[2, 3] == 255
