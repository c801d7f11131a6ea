"""Which pictures can be masks: grey, two colours, or transparency alone; whatever else is named with the likely mix-up."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from diffharmony.common.assets import ROOT
from diffharmony.common.images import load_mask, read_mask
from diffharmony.common.masks import check_image_and_mask, one_colour, settle_mask
from diffharmony.common.pictures import check_no_photograph, grey_mask

SIZE = WIDTH, HEIGHT = 128, 96
RNG = np.random.default_rng(3)


def drawn(fill=255):
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse((40, 20, 90, 80), fill=fill)
    return mask


def soft():
    return drawn().filter(ImageFilter.GaussianBlur(1.5))


def photograph():
    return Image.fromarray(RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)


def palette(index, colour):
    picture = drawn(index).convert("L")
    found = Image.frombytes("P", SIZE, picture.tobytes())
    found.putpalette([0] * 3 * index + list(colour) + [0] * (765 - 3 * index))
    return found


def with_alpha(picture, alpha):
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


def inverted(mask):
    return mask.point(lambda value: 255 - value)


@pytest.mark.parametrize(("picture", "message"), [
    (photograph(), "got a picture in colour. Pass the mask itself; image and mask may be exchanged"),
    (photograph().quantize(200), "got a picture in colour. Pass the mask itself"),
    (with_alpha(photograph(), soft()), ".* with transparency, as a cut-out has, or what ComfyUI's mask editor saves. Save the mask alone"),
    (with_alpha(photograph(), inverted(drawn())), ".* as a cut-out has, or what ComfyUI's mask editor saves"),
    (Image.merge("RGB", (drawn(), drawn(0), drawn().transpose(Image.Transpose.FLIP_LEFT_RIGHT))), "got 4 colours, as a map of labels has"),
    (with_alpha(photograph().convert("L"), drawn()), "got a grey picture whose transparency marks something else, as a cut-out has"),
    (Image.open(ROOT / "assets/demo/real.png").convert("L"), "got a photograph in grey: .* of it is neither"),
    (Image.open(ROOT / "assets/demo/composite.png").convert("L").resize((900, 700)), "got a photograph in grey"),
], ids=["photograph", "palette", "cut-out", "mask editor", "labels", "grey cut-out", "grey photograph", "larger"])  # fmt: skip
def test_a_picture_is_no_mask(tmp_path, picture, message):
    picture.save(tmp_path / "a.png")
    for read in (load_mask, read_mask):
        with pytest.raises(ValueError, match=f"a.png must be white foreground on black, as masks are, {message}") as caught:
            read(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


def gradient(size=(640, 480)):
    return Image.linear_gradient("L").resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("picture", [
    drawn(), soft(), gradient(), gradient((4000, 30)), Image.radial_gradient("L"), Image.new("L", SIZE, 128),
    drawn().filter(ImageFilter.GaussianBlur(30)), inverted(soft()),
], ids=["hard", "soft", "gradient", "wide gradient", "radial", "even", "blurred", "inverted"])  # fmt: skip
def test_grey_is_the_mask_as_it_is(picture):
    assert np.array_equal(np.asarray(grey_mask(picture)), np.asarray(picture))
    for mode in ("RGB", "RGBA", "LA"):
        assert np.array_equal(np.asarray(grey_mask(picture.convert(mode))), np.asarray(picture))


def test_a_jpeg_of_a_mask_is_one(tmp_path):
    soft().convert("RGB").save(tmp_path / "a.jpg", quality=60)
    assert abs(np.asarray(read_mask(tmp_path / "a.jpg")).astype(int) - np.asarray(soft())).max() < 40


def test_transparency_alone_is_the_mask():
    for colour in (0, 255):
        assert np.array_equal(np.asarray(grey_mask(with_alpha(Image.new("RGB", SIZE, (colour,) * 3), soft()))), np.asarray(soft()))
    both = with_alpha(soft().convert("RGB"), soft())
    assert np.array_equal(np.asarray(grey_mask(both)), np.asarray(soft()))


@pytest.mark.parametrize(("picture", "found"), [
    (drawn(0), "none: it is black"),
    (drawn(1), "values 0 and 1, which are both black in a picture. Scale 1 up to white"),
    (drawn(100), "none: nothing is brighter than 100 of 255"),
    (palette(1, (128, 0, 0)), "none: nothing is brighter than 38 of 255"),
    (Image.fromarray((np.asarray(drawn()) > 0).astype(np.uint16)), "values 0 and 1, which are both black"),
], ids=["black", "0 and 1", "dark", "DAVIS", "16 bits"])  # fmt: skip
def test_a_mask_file_that_marks_nothing_is_refused(tmp_path, picture, found):
    picture.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"a.png must have foreground .white, at least half of the range., got {found}"):
        load_mask(tmp_path / "a.png")


def test_a_drawing_in_one_colour_is_a_mask(tmp_path):
    palette(15, (192, 128, 128)).save(tmp_path / "a.png")
    assert load_mask(tmp_path / "a.png").max().item() * 255 == pytest.approx(147, abs=1)


def test_a_level_beside_black_or_white_is_black_or_white():
    values = torch.tensor([0, 1, 2, 127, 253, 254, 255]) / 255
    assert torch.equal(settle_mask(values) * 255, torch.tensor([0.0, 0, 2, 127, 253, 255, 255]))
    _, mask = check_image_and_mask(torch.zeros(1, 3, 1, 7), values[None, None, None])
    assert torch.equal(mask[0, 0, 0], settle_mask(values))
    none = torch.rand(20)
    assert settle_mask(none) is none


def test_few_pixels_tell_no_photograph():
    check_no_photograph(np.random.default_rng(0).uniform(0, 1, (31, 31)), "mask")
    with pytest.raises(ValueError, match="a photograph in grey"):
        check_no_photograph(np.random.default_rng(0).uniform(0, 1, (32, 32)), "mask")


class TestOneColour:
    """Of what a mask marks in a whole batch."""

    def test_of_all_that_is_marked(self):
        images, where = torch.rand(2, 3, 200, 5), torch.zeros(1, 1, 200, 5, dtype=torch.bool)
        assert one_colour(images, where) is None
        where[..., 10:150, 2:] = True
        images[:, :, 10:150, 2:] = torch.tensor([0.0, 0.5, 1.0])[:, None, None]
        assert torch.equal(one_colour(images, where), torch.tensor([0.0, 0.5, 1.0]))

    @pytest.mark.parametrize("place", [(0, 1, 0, 0), (1, 2, 199, 4)])
    def test_one_other_pixel_anywhere_is_another(self, place):
        images, where = torch.zeros(2, 3, 200, 5), torch.ones(2, 1, 200, 5, dtype=torch.bool)
        images[place] = 1 / 255
        assert one_colour(images, where) is None
