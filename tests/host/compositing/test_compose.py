"""Composite Foreground in a real ComfyUI, beside the library's own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffharmony.synthetic.compose import compose_foreground, load_cutout
from diffharmony.tests.host.prompts import added, changed, node
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, as_tensor, difference, pixels


@pytest.fixture(scope="module")
def cutout(server, tmp_path_factory):
    """A cut-out file with a soft edge and a light fringe, in the server's input folder."""
    y, x = np.mgrid[:60, :80]
    alpha = np.clip((20 - np.hypot(y - 30, x - 45)) / 6 + 0.5, 0, 1)
    colour = 255 - alpha[..., None] * np.array([200, 150, 100])
    path = tmp_path_factory.mktemp("cutout") / "cutout.png"
    Image.fromarray(np.dstack([colour, alpha * 255]).round().astype(np.uint8)).save(path)
    server.add_input(path)
    return path


def prompt(**options):
    compose = node(
        "DiffHarmonyComposeForeground", background=["background", 0], foreground=["cutout", 0], mask=["cutout", 1], invert_mask=True, x=0.3, y=0.6,
        scale=0.5, feather=0.0, decontaminate=True,
    )  # fmt: skip
    made = {
        "background": node("LoadImage", image="composite.png"),
        "cutout": node("LoadImage", image="cutout.png"),
        "compose": compose,
        "picture": node("MaskToImage", mask=["compose", 1]),
        "image": node("SaveImage", images=["compose", 0], filename_prefix="composed"),
        "mask": node("SaveImage", images=["picture", 0], filename_prefix="mask"),
    }
    return changed(made, compose=options)


def library(cutout, made, **options):
    background = as_tensor(pixels(made / "composite.png"))
    composite, mask = compose_foreground(*load_cutout(cutout), background * 2 - 1, **{"x": 0.3, "y": 0.6, "scale": 0.5, **options})
    return as_picture(composite), (mask[0, 0] * 255).numpy()


@pytest.mark.parametrize("options", [{}, {"feather": 5.0, "x": -0.02}, {"decontaminate": False, "scale": 0.0}], ids=str)
def test_the_composite_and_its_mask_are_the_librarys(run, cutout, made, options):
    result = run(prompt(**options))
    image, mask = result.images["image"][0], result.images["mask"][0][..., 0]
    composite, alpha = library(cutout, made, **options)
    assert difference(image, composite) <= TOLERANCE and np.abs(mask - alpha).max() <= 1.01
    background = pixels(made / "composite.png")
    assert np.array_equal(image[alpha == 0], background[alpha == 0]) and (alpha == 0).any()


def test_an_image_with_four_channels_brings_its_own_mask(run, cutout, made):
    joined = added(prompt(foreground=["joined", 0]), joined=node("JoinImageWithAlpha", image=["cutout", 0], alpha=["cutout", 1]))
    del joined["compose"]["inputs"]["mask"]
    assert difference(run(joined).images["image"][0], library(cutout, made)[0]) <= TOLERANCE


@pytest.mark.parametrize(("options", "message"), [
    ({"x": 1.9}, "foreground must lie at least partly on the background"),
    ({"foreground": ["background", 0], "mask": ["background", 1], "invert_mask": False}, "must have foreground (white"),
    ({"invert_mask": False}, "mask must mark an object, got pixels that are all white, as where a cut-out is transparent. Switch invert_mask on."),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_refused(error_of, cutout, options, message):
    assert message in error_of(prompt(**options))


def test_nothing_says_what_stays(error_of, cutout):
    bare = prompt()
    del bare["compose"]["inputs"]["mask"]
    assert "foreground must have transparency (4 channels), or come with a mask" in error_of(bare)
