"""Harmonize Image, the whole of it in one node, in a real ComfyUI; and the bundled models, which need no copying."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from diffharmony.evaluation import measure
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.tests.host.comfy_server import REPOSITORY
from diffharmony.tests.host.prompts import changed, harmonize
from diffharmony.tests.host.test_texts import get
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, difference, library_decode, pixels, saved_latent, with_latent

TINY, DEMO = REPOSITORY / "assets" / "tiny", REPOSITORY / "assets" / "demo"
BUNDLED = " (bundled tiny)"


@pytest.fixture
def demo(server):
    """The names in input/ of the demo's composite and mask."""
    return {name: server.add_input(DEMO / f"{name}.png", f"demo_{name}.png") for name in ("composite", "mask")}


@pytest.fixture
def tiny(demo):
    """The workflow with the bundled models, which were copied nowhere, and the demo's pictures."""
    return harmonize(**demo, vae="harmony_vae.safetensors" + BUNDLED, unet="harmonization_unet.safetensors" + BUNDLED)


def options(server, node_id: str, widget: str) -> list[str]:
    kind, more = json.loads(get(server, f"/object_info/{node_id}"))[node_id]["input"]["required"][widget]
    return more["options"] if kind == "COMBO" else kind


@pytest.mark.parametrize(("node_id", "widget", "bundled"), [
    ("DiffHarmonyLoadHarmonyVAE", "vae_name", ["harmony_vae.safetensors", "inverse_harmony_vae.safetensors"]),
    ("DiffHarmonyLoadHarmonizationUNet", "unet_name", ["harmonization_unet.safetensors"]),
    ("DiffHarmonyLoadInverseUNet", "unet_name", ["inverse_unet.safetensors"]),
    ("DiffHarmonyLoadHarmonyClassifier", "classifier_name", ["harmony_classifier.safetensors"]),
])  # fmt: skip
def test_the_bundled_models_are_offered_last_where_they_belong(server, node_id, widget, bundled):
    found = options(server, node_id, widget)
    assert found[-len(bundled) :] == [name + BUNDLED for name in bundled]
    assert len(found) > len(bundled) and not any(name.endswith(BUNDLED) for name in found[: -len(bundled)])


def test_the_bundled_models_make_the_librarys_own_images(server, run, tiny):
    result = run(with_latent(changed(tiny, decode={"paste_background": False})))
    latent = saved_latent(server, result)
    vae = load_harmony_vae(TINY / "harmony_vae.safetensors")
    expected = library_decode(vae, latent, pixels(DEMO / "composite.png"), pixels(DEMO / "mask.png", 1))
    assert difference(result.images["conditional"][0], as_picture(expected)) <= TOLERANCE


def test_the_demos_photograph_gets_closer_to_the_real_one(run, tiny):
    harmonized = Image.fromarray(run(tiny).images["conditional"][0])
    real, mask, composite = (Image.open(DEMO / f"{name}.png") for name in ("real", "mask", "composite"))
    before, after = (measure(picture, real, mask, size=None, real_background=False) for picture in (composite, harmonized))
    assert after.fmse < 0.75 * before.fmse
