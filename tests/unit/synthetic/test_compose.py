"""A cut-out on a background: where it comes to lie, what stays of the background, and the fringe of the old one."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.synthetic.compose import compose_foreground, load_cutout
from diffharmony.synthetic.foreground import estimate_foreground, mixed_again, own_colours

SIDE = 192


def texture(low: int, high: int, cells: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(low, high, (cells, cells, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 0)[None]


@pytest.fixture(scope="module")
def cutout():
    """Colour, alpha, the photograph that both are mixed to: dark and wavy before something light, its edge some six pixels wide."""
    y, x = torch.meshgrid(*[torch.arange(SIDE) / SIDE - 0.5] * 2, indexing="ij")
    angle, distance = torch.atan2(y, x), torch.hypot(y, x)
    edge = 0.3 + 0.03 * torch.sin(9 * angle) + 0.015 * torch.sin(40 * angle)
    alpha = ((edge - distance) / 0.03 + 0.5).clamp(0, 1)[None, None]
    colour = texture(20, 140, 7, seed=0)
    return colour, alpha, alpha * colour + (1 - alpha) * texture(200, 255, 5, seed=1)


def error(found: torch.Tensor, colour: torch.Tensor, alpha: torch.Tensor) -> float:
    """Root mean square over the soft edge of what shows of a wrong colour, 0..255."""
    soft = ((alpha > 0.02) & (alpha < 1)).expand_as(colour)
    return (alpha * (found - colour))[soft].square().mean().sqrt().item() * 127.5


@pytest.mark.parametrize("erased", ["photograph", "black where transparent", "premultiplied", "clean colours"])
def test_the_old_background_leaves_the_fringe(cutout, erased):
    colour, alpha, photograph = cutout
    image = {
        "photograph": photograph,
        "black where transparent": torch.where(alpha > 0, photograph, -1.0),
        "premultiplied": alpha * (colour + 1) - 1,
        "clean colours": colour,
    }[erased]
    assert (error(image, colour, alpha) > 10) == (erased != "clean colours")
    found = estimate_foreground(image, alpha)
    assert error(found, colour, alpha) < 2
    assert torch.equal(found.where(alpha == 1, 0.0), image.where(alpha == 1, 0.0))


def test_one_pixel_and_one_row_are_images():
    for size in ((1, 1), (1, 5), (7, 1)):
        image = torch.full((1, 3, *size), 0.25)
        assert estimate_foreground(image, torch.full((1, 1, *size), 0.5)) == pytest.approx(image, abs=1e-3)


def square(side: int = 20, margin: int = 10, value: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A plain square in a transparent frame."""
    alpha = torch.zeros(1, 1, side + 2 * margin, side + 2 * margin)
    alpha[..., margin:-margin, margin:-margin] = 1
    return torch.full((1, 3, *alpha.shape[-2:]), value), alpha


def extent(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is at least half there."""
    rows, columns = ((mask[0, 0] >= 0.5).any(dim=axis).nonzero() for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


BACKGROUND = texture(0, 255, 9, seed=2)[..., :120, :160]


@pytest.mark.parametrize(("options", "expected"), [
    ({}, (70, 50, 90, 70)),
    ({"x": 0.25, "y": 1 / 3}, (30, 30, 50, 50)),
    ({"x": 0.0, "y": 1.0}, (0, 110, 10, 120)),
    ({"scale": 0.5}, (50, 30, 110, 90)),
    ({"scale": 0.1, "x": 0.25}, (34, 54, 46, 66)),
    ({"scale": 1.0, "x": -0.2}, (0, 0, 28, 120)),
    ({"x": 1.05}, (158, 50, 160, 70)),
    ({"feather": 6}, (70, 50, 90, 70)),
    ({"feather": 30, "scale": 1.0, "y": 1.1}, (20, 72, 140, 120)),
], ids=str)  # fmt: skip
def test_where_the_object_lies(options, expected):
    composite, mask = compose_foreground(*square(), BACKGROUND, **options)
    assert composite.shape == BACKGROUND.shape and mask.shape == (1, 1, 120, 160)
    assert np.abs(np.subtract(extent(mask), expected)).max() <= (3 if "feather" in options else 0)
    outside = (mask == 0).expand_as(composite)
    assert torch.equal(composite[outside], BACKGROUND[outside]) and outside.any()
    inside = mask > 0.9999
    assert inside.any() and (composite[:, :1][inside] > 0.999).all()


def test_an_object_at_the_edge_of_the_picture_is_not_feathered_there():
    _, mask = compose_foreground(*square(), BACKGROUND, y=1.0, scale=1.0, feather=20)
    column = mask[0, 0, :, 80]
    assert column[-1] == 1 and 0 < column[extent(mask)[1]] < 1
    assert (column.diff() >= -1e-6).all()


def test_the_composite_has_no_halo(cutout):
    """Dark on dark: the light background that it was cut out of must not show, at any size."""
    colour, alpha, photograph = cutout
    background = torch.full((1, 3, 240, 240), -0.8)
    for scale in (0.0, 0.3):
        clean, _ = compose_foreground(colour, alpha, background, scale=scale)
        mended, mask = compose_foreground(photograph, alpha, background, scale=scale)
        as_it_was, _ = compose_foreground(photograph, alpha, background, scale=scale, decontaminate=False)
        edge = ((mask > 0) & (mask < 1)).expand_as(clean)
        wrong, halo = ((one - clean)[edge].square().mean().sqrt() * 127.5 for one in (mended, as_it_was))
        assert wrong < 2.5 and halo > 5 * wrong


def test_a_layer_stays_where_it_lies():
    colour, alpha = square()
    layer, opaque = (torch.nn.functional.pad(values, (3, 117, 61, 19)) for values in (colour, alpha))
    composite, mask = compose_foreground(layer, opaque, BACKGROUND, x=None, y=None)
    assert torch.equal(mask, opaque)
    assert torch.equal(composite, torch.where(opaque == 1, 1.0, BACKGROUND))
    with pytest.raises(ValueError, match=r"foreground must be as large as background \(160 x 120 px.*got 40 x 40 px. Give x and y"):
        compose_foreground(colour, alpha, BACKGROUND, x=None, y=None)


@pytest.mark.parametrize("gain", [0.4, 2.0])
def test_only_the_foregrounds_share_of_a_soft_edge_is_relit(cutout, gain):
    """Under a light that is known: relit as it is, an edge's background changes too."""
    colour, alpha, _ = cutout

    def relit(image, original):
        return alpha * ((image + 1) * gain - 1) + (1 - alpha) * original

    behind = texture(10, 60, 6, seed=3)
    composite = alpha * colour + (1 - alpha) * behind
    truth = alpha * ((colour + 1) * gain - 1) + (1 - alpha) * behind
    own = own_colours(composite, alpha)
    soft = ((alpha > 0) & (alpha < 1)).expand_as(truth)
    assert torch.equal(own[~soft], composite[~soft])
    mended, as_it_is = (((one - truth)[soft].square().mean().sqrt() * 127.5) for one in (mixed_again(composite, own, relit(own, own)), relit(composite, composite)))
    assert mended < 1 and as_it_is > 5 * mended
    assert torch.equal(mixed_again(composite, own, own), composite), "no change is none"


def test_a_hard_mask_has_nothing_to_unmix(cutout):
    colour, alpha, _ = cutout
    assert own_colours(colour, (alpha >= 0.5).float()).data_ptr() == colour.data_ptr()


def test_one_cutout_serves_many_backgrounds_and_the_other_way_round():
    colour, alpha = square()
    both = torch.cat([BACKGROUND, -BACKGROUND])
    composite, mask = compose_foreground(colour, alpha, both)
    assert torch.equal(composite[1:], compose_foreground(colour, alpha, both[1:])[0]) and mask.shape[0] == 2
    composite, mask = compose_foreground(torch.cat([colour, -colour]), alpha, BACKGROUND)
    assert composite[:, 0, 60, 80].tolist() == [1, -1]
    with pytest.raises(ValueError, match="must have batch 1 or 3, got 2"):
        compose_foreground(colour, alpha.expand(3, -1, -1, -1), both)


@pytest.mark.parametrize(("options", "message"), [
    ({"x": 1.2}, "foreground must lie at least partly on the background, got 36 x 36 px around x 1.2, y 0.5 of 160 x 120 px"),
    ({"x": -0.3, "feather": 40}, "foreground must lie at least partly"),
    ({"x": None}, "x and y must be numbers, or both None with scale 0, got None, 0.5, scale 0.0"),
    ({"x": None, "y": None, "scale": 0.5}, "both None with scale 0, got None, None, scale 0.5"),
    ({"y": float("nan")}, "y must be a finite number, got nan"),
    ({"scale": 5}, r"scale must lie in 0..4, got 5"),
    ({"scale": float("nan")}, r"scale must lie in 0..4, got nan"),
    ({"feather": -1}, "feather must be at least 0 pixels, got -1"),
    ({"alpha": torch.zeros(1, 1, 40, 40)}, "alpha must have foreground"),
    ({"alpha": torch.ones(1, 1, 10, 10)}, "mask must be as large as foreground"),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_refused(options, message):
    colour, alpha = square()
    with pytest.raises(ValueError, match=message):
        compose_foreground(colour, options.pop("alpha", alpha), BACKGROUND, **options)


class TestFiles:
    def test_transparency_is_alpha_and_hidden_colours_stay(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cut.png")
        image, alpha = load_cutout(tmp_path / "cut.png")
        assert np.array_equal(((image[0] + 1) * 127.5).round().movedim(0, -1), pixels[..., :3])
        assert np.array_equal((alpha[0, 0] * 255).round(), pixels[..., 3])

    def test_palette_and_grey(self, tmp_path):
        grey = Image.new("LA", (4, 4), (100, 0))
        grey.putpixel((1, 1), (100, 255))
        grey.save(tmp_path / "grey.png")
        assert load_cutout(tmp_path / "grey.png")[1].sum() == 1
        palette = Image.new("P", (4, 4), 1)
        palette.putpixel((2, 0), 0)
        palette.save(tmp_path / "palette.gif", transparency=1)
        assert load_cutout(tmp_path / "palette.gif")[1].sum() == 1

    def test_a_mask_counts_beside_transparency(self, tmp_path):
        mask = torch.zeros(1, 1, 4, 4)
        mask[..., :2] = 1
        Image.new("RGB", (4, 4), "white").save(tmp_path / "whole.png")
        assert torch.equal(load_cutout(tmp_path / "whole.png", mask)[1], mask)
        half = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
        half.paste((9, 9, 9, 255), (0, 0, 4, 2))
        half.save(tmp_path / "half.png")
        assert load_cutout(tmp_path / "half.png", mask)[1].sum() == 4
        with pytest.raises(ValueError, match="mask must be as large as .*whole.png"):
            load_cutout(tmp_path / "whole.png", mask[..., :3])

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_a_picture_without_transparency_is_refused(self, tmp_path, mode):
        Image.new(mode, (4, 4), "white").save(tmp_path / "whole.png")
        with pytest.raises(ValueError, match="must have transparency around the object"):
            load_cutout(tmp_path / "whole.png")
