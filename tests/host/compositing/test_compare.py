"""Harmonization Metrics and Difference View in a real ComfyUI, beside the evaluator's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffharmony.evaluation import measure
from diffharmony.tests.host.prompts import added, changed, node
from diffharmony.tests.host.test_workflow import TOLERANCE, difference


def prompt(**changes):
    made = {
        "image": node("LoadImage", image="second.png"),
        "real": node("LoadImage", image="composite.png"),
        "mask": node("LoadImageMask", image="mask.png", channel="red"),
        "metrics": node("DiffHarmonyMetrics", image=["image", 0], real=["real", 0], mask=["mask", 0], convention="diffharmony", size=256),
        "difference": node("DiffHarmonyDifference", image=["image", 0], reference=["real", 0], gain=2.0, mode="absolute"),
        "shown": node("SaveImage", images=["difference", 0], filename_prefix="difference"),
    }
    return changed(made, **changes)


@pytest.fixture(scope="module")
def pictures(made):
    return [Image.open(made / f"{name}.png") for name in ("second", "composite", "mask")]


def line(name: str, values: dict) -> str:
    return f"{name}: PSNR {values['PSNR']:.2f} dB, MSE {values['MSE']:.2f}, fMSE {values['fMSE']:.2f}"


@pytest.mark.parametrize(("convention", "size"), [("diffharmony", 256), ("pctnet", 0)])
def test_the_figures_are_the_evaluators(run, pictures, convention, size):
    text = run(prompt(metrics={"convention": convention, "size": size})).texts["metrics"]
    assert text == [line("image 0", measure(*pictures, convention, size=size or None).values())]


def test_figures_go_on_as_numbers_and_batches_have_means(run, pictures):
    both = added(
        prompt(metrics={"image": ["both", 0]}),
        both=node("ImageBatch", image1=["image", 0], image2=["real", 0]),
        number=node("PreviewAny", source=["metrics", 3]),
    )
    result = run(both)
    fmse = measure(*pictures).fmse
    lines = result.texts["metrics"][0].splitlines()
    assert lines[1].startswith("image 1: PSNR 100.00 dB, MSE 0.00") and lines[2].startswith("mean of 2: ")
    assert float(result.texts["number"][0]) == pytest.approx(fmse / 2)


def test_the_difference_is_amplified(run, pictures):
    image, real = (np.asarray(picture.convert("RGB")).astype(float) for picture in pictures[:2])
    found = run(prompt()).images["shown"][0]
    assert difference(found, np.clip(2 * np.abs(image - real), 0, 255).astype(np.uint8)) <= TOLERANCE
    found = run(prompt(difference={"mode": "signed", "gain": 0.5})).images["shown"][0]
    assert difference(found, np.clip(127.5 + (image - real) / 2, 0, 255).astype(np.uint8)) <= TOLERANCE


@pytest.mark.parametrize(("changes", "message"), [
    ({"metrics": {"mask": ["real", 1]}}, "mask must have foreground (white"),
    ({"difference": {"reference": ["odd", 0]}}, "reference must be as large as image (128 x 96 px, width x height), got 101 x 75 px"),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_refused(error_of, changes, message):
    assert message in error_of(changed(added(prompt(), odd=node("LoadImage", image="odd.png")), **changes))
