"""Harmony Working Size and Transfer Harmony in a real ComfyUI, beside the library's own."""

from __future__ import annotations

import numpy as np
import pytest

from diffharmony.diffusion.transfer import transfer_light
from diffharmony.tests.host.comfy_client import PromptFailed
from diffharmony.tests.host.prompts import added, changed, node, transferred
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, as_tensor, difference, pixels


def test_the_light_of_the_working_size_reaches_the_full_size_as_in_the_library(run, made):
    prompt = added(
        changed(transferred(), working={"size": 64}), shown=node("SaveImage", images=["decode", 0], filename_prefix="working")
    )
    result = run(prompt)
    composite, mask, small = pixels(made / "composite.png"), pixels(made / "mask.png", 1), result.images["shown"][0]
    assert max(small.shape[:2]) == 64 < max(composite.shape[:2])
    library = transfer_light(as_tensor(composite) * 2 - 1, as_tensor(mask), as_tensor(small) * 2 - 1)
    found = result.images["conditional"][0]
    assert difference(found, as_picture(library)) <= TOLERANCE
    assert np.array_equal(found[mask == 0], composite[mask == 0])
    assert not np.array_equal(found[mask == 255], composite[mask == 255])


def test_no_strength_is_no_change(run, made):
    result = run(changed(transferred(), working={"size": 64}, transfer={"strength": 0.0}))
    assert np.array_equal(result.images["conditional"][0], pixels(made / "composite.png"))


def test_an_image_of_another_shape_is_refused(run):
    other = node("ImageScale", image=["decode", 0], upscale_method="bilinear", width=64, height=16, crop="disabled")
    with pytest.raises(PromptFailed, match="harmonized must have the image's shape"):
        run(changed(added(transferred(), other=other), working={"size": 64}, transfer={"harmonized": ["other", 0]}))
