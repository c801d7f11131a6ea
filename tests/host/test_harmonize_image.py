"""Harmonize Image, the whole of it in one node, in a real ComfyUI; and the bundled models, which need no copying."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffharmony.diffusion.inference import bring_to_size
from diffharmony.diffusion.mask_edges import edit_mask
from diffharmony.evaluation import measure
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.tests.host.comfy_client import PromptFailed
from diffharmony.tests.host.comfy_server import DEMO, REPOSITORY, save_painted
from diffharmony.tests.host.prompts import BUNDLED, TINY, added, changed, harmonize, in_one, node, transferred
from diffharmony.tests.made.inverse_prompts import TINY_CLASSIFIER
from diffharmony.tests.host.test_texts import get
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, as_tensor, difference, library_decode, pixels, saved_latent, with_latent



@pytest.fixture
def demo(server):
    """The names in input/ of the demo's composite and mask."""
    return {name: server.add_input(DEMO / f"{name}.png", f"demo_{name}.png") for name in ("composite", "mask")}


@pytest.fixture
def tiny(demo):
    """The workflow with the bundled models, which were copied nowhere, and the demo's pictures."""
    return harmonize(**demo, **TINY)


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


OWN_PAIR = "harmonization_unet.safetensors + harmony_vae.safetensors"


def test_own_pairs_are_offered_before_the_bundled_one_and_by_what_the_files_are(server):
    found = options(server, "DiffHarmonyHarmonizeImage", "models")
    assert found[-1] == "tiny (bundled)" and OWN_PAIR in found
    assert not any("inverse" in name or "plain" in name for name in found)


def test_one_node_does_what_the_whole_graph_does(run, demo):
    graph = run(transferred(**demo, **TINY, seed=5)).images["conditional"][0]
    alone = run(in_one(**demo, seed=5)).images["conditional"][0]
    assert np.array_equal(alone, graph)


@pytest.mark.parametrize("detail", ["change", "decoded"])
def test_the_other_ways_to_full_size(run, made, detail):
    small = added(
        changed(transferred(seed=5), working={"size": 64}, sampler={"steps": 5}), shown=node("SaveImage", images=["decode", 0], filename_prefix="working")
    )
    composite, mask = as_tensor(pixels(made / "composite.png")) * 2 - 1, as_tensor(pixels(made / "mask.png", 1))
    decoded = as_tensor(run(small).images["shown"][0]) * 2 - 1
    expected = as_picture(bring_to_size(composite, mask, decoded, detail=detail, strength=0.5))
    found = run(in_one(models=OWN_PAIR, seed=5, working_size=64, detail=detail, strength=0.5)).images["conditional"][0]
    assert difference(found, expected) <= TOLERANCE


def test_a_small_foreground_is_harmonized_in_a_window_of_its_own(server, run, demo, tmp_path):
    mask = Image.new("L", Image.open(DEMO / "composite.png").size)
    mask.paste(255, (330, 90, 360, 120))
    mask.save(tmp_path / "small.png")
    small = in_one(demo["composite"], server.add_input(tmp_path / "small.png", "small.png"), seed=5, detail="change")
    composite, inside = pixels(DEMO / "composite.png"), np.asarray(mask) > 0
    cropped, whole = (run(changed(small, harmonize={"crop_to_foreground": crop})).images["conditional"][0] for crop in (True, False))
    assert np.array_equal(cropped[~inside], composite[~inside]) and not np.array_equal(cropped[inside], composite[inside])
    assert not np.array_equal(cropped, whole)


def test_frames_of_a_video_are_lit_alike(run):
    alone = run(in_one(models=OWN_PAIR, seed=5)).images["conditional"][0]
    clip = added(changed(in_one(models=OWN_PAIR, seed=5, smoothing=8.0), harmonize={"image": ["clip", 0]}), clip=node("RepeatImageBatch", image=["composite", 0], amount=3))
    frames = run(clip).images["conditional"]
    assert len(frames) == 3 and all(np.array_equal(frame, frames[0]) for frame in frames)
    assert difference(frames[0], alone) <= 1
    with pytest.raises(PromptFailed, match="smoothing must be 0 for detail 'change' and 1 variants, got 8"):
        run(changed(clip, harmonize={"detail": "change"}))


def test_a_cutout_of_the_images_size_is_laid_over_it(server, run, made, tmp_path):
    """By its own transparency, or with a mask; what it makes of both is what it makes of the composite."""
    mask = Image.open(made / "mask.png")
    composite = Image.composite(Image.open(made / "second.png"), Image.open(made / "composite.png"), mask)
    composite.save(tmp_path / "laid.png")
    straight = run(in_one(server.add_input(tmp_path / "laid.png"), models=OWN_PAIR)).images["conditional"][0]
    loaded = {"cutout": node("LoadImage", image="second.png"), "transparency": node("InvertMask", mask=["mask", 0])}
    layer = added(in_one(models=OWN_PAIR), **loaded, joined=node("JoinImageWithAlpha", image=["cutout", 0], alpha=["transparency", 0]))
    masked = changed(layer, harmonize={"foreground": ["cutout", 0]})
    black = changed(masked, harmonize={"mask": ["transparency", 0], "invert_mask": True})
    own = changed(layer, harmonize={"foreground": ["joined", 0]})
    del own["harmonize"]["inputs"]["mask"]
    assert all(difference(run(prompt).images["conditional"][0], straight) <= 1 for prompt in (masked, black, own))
    with pytest.raises(PromptFailed, match=r"foreground must be as large as image \(128 x 96 px.*got 101 x 75 px. Place it with 'Composite Foreground"):
        run(changed(masked, cutout={"image": "odd.png"}))


@pytest.mark.parametrize(("hidden", "named"), [(0, "black"), (255, "white")])
def test_a_cutout_without_its_background_is_refused(server, error_of, made, tmp_path, hidden, named):
    """As a background remover saves it. Load Image's own mask is white around the object, which would be taken for the foreground."""
    picture, mask = pixels(made / "second.png").copy(), pixels(made / "mask.png", 1)
    picture[mask == 0] = hidden
    Image.fromarray(np.dstack([picture, mask])).save(tmp_path / f"alone_{named}.png")
    one_link = in_one(composite=server.add_input(tmp_path / f"alone_{named}.png"), mask=None)
    assert all(words in error_of(one_link) for words in (f"mask must mark an object, got pixels that are all {named}", "the cut-out to foreground"))
    joined = node("JoinImageWithAlpha", image=["composite", 0], alpha=["composite", 1])
    own = changed(added(one_link, joined=joined), harmonize={"image": ["joined", 0]})
    del own["harmonize"]["inputs"]["mask"]
    assert all(words in error_of(own) for words in ("image must have its background where it is transparent", "the cut-out to foreground"))
    background = node("LoadImage", image="composite.png")
    layer = changed(added(one_link, background=background), harmonize={"image": ["background", 0], "foreground": ["composite", 0]})
    assert "Switch invert_mask on" in error_of(layer)


@pytest.mark.parametrize("options", [{}, {"detail": "decoded"}, {"smoothing": 8.0}], ids=str)
def test_decontaminating_changes_soft_edges_alone(run, made, options):
    prompt = in_one(models=OWN_PAIR, mask_feather=4, decontaminate=True, **options)
    found, plain = (run(changed(prompt, harmonize={"decontaminate": on})).images["conditional"][0] for on in (True, False))
    mask = edit_mask(as_tensor(pixels(made / "mask.png", 1)), feather=4)[0, 0].numpy()
    edge, composite = (mask > 0.02) & (mask < 0.98), pixels(made / "composite.png")
    assert np.array_equal(found[mask == 0], composite[mask == 0])
    assert np.abs(found[edge].astype(int) - plain[edge]).max() > 2
    if not options:
        kept = run(changed(prompt, harmonize={"strength": 0.0})).images["conditional"][0]
        assert difference(found[mask == 1], plain[mask == 1]) <= 4 and difference(kept, composite) <= 1


def test_the_mask_of_load_image_will_do(server, run, demo):
    """As the mask editor saves it: what is painted is transparent, and white in the mask."""
    save_painted(DEMO / "composite.png", DEMO / "mask.png", server.base / "input" / "painted.png")
    one_link = run(in_one(composite="painted.png", mask=None))
    assert difference(one_link.images["conditional"][0], run(in_one(**demo)).images["conditional"][0]) <= 1


def test_black_is_the_foreground_where_the_mask_is_inverted(server, run, demo):
    Image.fromarray(255 - pixels(DEMO / "mask.png", 1)).save(server.base / "input" / "black.png")
    straight = run(in_one(**demo)).images["conditional"][0]
    inverted = run(in_one(composite=demo["composite"], mask="black.png", invert_mask=True)).images["conditional"][0]
    assert difference(straight, inverted) <= 1


def test_an_image_of_four_channels_brings_its_foreground(run, demo):
    straight = run(in_one(**demo)).images["conditional"][0]
    joined = node("JoinImageWithAlpha", image=["composite", 0], alpha=["inverted", 0])
    prompt = added(in_one(**demo), inverted=node("InvertMask", mask=["mask", 0]), joined=joined)
    prompt = changed(prompt, harmonize={"image": ["joined", 0]})
    del prompt["harmonize"]["inputs"]["mask"]
    assert difference(run(prompt).images["conditional"][0], straight) <= 1


def test_the_mask_comes_out_as_it_was_used(run, demo):
    shown = {"shown": node("MaskToImage", mask=["harmonize", 1]), "mask_picture": node("SaveImage", images=["shown", 0], filename_prefix="mask")}
    result = run(added(in_one(**demo, mask_grow=5, mask_feather=6), **shown))
    mask = as_tensor(pixels(DEMO / "mask.png", 1))
    expected = (edit_mask(mask, grow=5, feather=6)[0, 0].numpy() * 255).astype(int)
    used = result.images["mask_picture"][0][..., 0].astype(int)
    assert np.abs(used - expected).max() <= TOLERANCE
    changed_pixels = (result.images["conditional"][0] != pixels(DEMO / "composite.png")).any(axis=-1)
    assert not changed_pixels[used == 0].any() and changed_pixels[pixels(DEMO / "mask.png", 1) < 128].any()


def test_variants_come_most_harmonious_first_with_a_sheet_and_the_picture_on_the_node(run, demo):
    scored = {
        "classifier": node("DiffHarmonyLoadHarmonyClassifier", classifier_name=TINY_CLASSIFIER),
        "score": node("DiffHarmonyHarmonyScore", classifier=["classifier", 0], images=["harmonize", 0], mask=["mask", 0]),
        "scores": node("PreviewAny", source=["score", 0]),
        "sheet": node("SaveImage", images=["harmonize", 2], filename_prefix="sheet"),
    }
    result = run(changed(added(in_one(**demo, variants=3), **scored), harmonize={"classifier": ["classifier", 0]}))
    variants, (sheet,) = result.images["conditional"], result.images["sheet"]
    scores = [float(text) for text in result.texts["scores"]]
    assert len(variants) == 3 and scores == sorted(scores)
    assert len({image.tobytes() for image in variants}) == 3
    assert sheet.shape[0] > sheet.shape[1] / 2 and sheet.shape[1] > 256
    alone = run(in_one(**demo, steps=5)).images["conditional"][0]
    assert any(np.array_equal(alone, image) for image in variants), "the first seed is the node's own"
    (on_node,) = [images for name, images in result.images.items() if name.startswith("harmonize")]
    assert len(on_node) == 4 and np.array_equal(on_node[0], pixels(DEMO / "composite.png"))


def test_a_batch_has_variants_of_each_image(run, made):
    both = node("ImageBatch", image1=["composite", 0], image2=["second", 0])
    prompt = added(in_one(variants=2), second=node("LoadImage", image="second.png"), both=both)
    prompt = added(changed(prompt, harmonize={"image": ["both", 0]}), masks=node("MaskToImage", mask=["harmonize", 1]))
    prompt = added(prompt, shown=node("PreviewImage", images=["masks", 0]))
    images = run(prompt).images
    assert (len(images["conditional"]), len(images["shown"])) == (4, 1), "one mask for all stays one"
    background = pixels(made / "mask.png", 1) == 0
    for image, name in zip(images["conditional"], ("composite", "composite", "second", "second"), strict=True):
        assert np.array_equal(image[background], pixels(made / f"{name}.png")[background])


def test_connected_models_count_instead(run, made):
    named = run(in_one(models=OWN_PAIR)).images["conditional"][0]
    loaders = {
        "unet": node("DiffHarmonyLoadHarmonizationUNet", unet_name="harmonization_unet.safetensors"),
        "vae": node("DiffHarmonyLoadHarmonyVAE", vae_name="harmony_vae.safetensors"),
    }
    linked = run(changed(added(in_one(), **loaders), harmonize={"model": ["unet", 0], "harmony_vae": ["vae", 0]}))
    assert np.array_equal(linked.images["conditional"][0], named)


@pytest.mark.parametrize(("changes", "messages"), [
    ({"mask": ["composite", 1]}, ("mask must have foreground (white", "paint it with 'Open in MaskEditor'", "'Load Image (as Mask)'", "invert_mask")),
    ({"mask": None}, ("mask must be connected for an image without transparency", "White is the foreground")),
    ({"models": "nowhere.safetensors + nothing.safetensors"}, ("nowhere.safetensors",)),
    ({"model": ["inverse", 0]}, ("model must be of direction 'harmonize', got 'invert'",)),
    ({"harmony_vae": ["inverse_vae", 0]}, ("harmony_vae must be of direction 'harmonize', got 'invert'",)),
    ({"harmony_vae": ["pixels", 0]}, ("Harmonize Image needs a Harmony-VAE; got a plain VAE",)),
    ({"variants": 9}, ("variants",)),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_refused(error_of, changes, messages):
    loaders = {
        "inverse": node("DiffHarmonyLoadInverseUNet", unet_name="inverse_unet.safetensors"),
        "inverse_vae": node("DiffHarmonyLoadHarmonyVAE", vae_name="inverse_harmony_vae.safetensors"),
        "pixels": node("VAELoader", vae_name="pixel_space"),
    }
    prompt = changed(added(in_one(), **loaders), harmonize=changes)
    prompt["harmonize"]["inputs"] = {name: value for name, value in prompt["harmonize"]["inputs"].items() if value is not None}
    error = error_of(prompt)
    assert all(message in error for message in messages), error


def test_the_bundled_models_make_the_librarys_own_images(server, run, tiny):
    result = run(with_latent(changed(tiny, decode={"paste_background": False})))
    latent = saved_latent(server, result)
    vae = load_harmony_vae(REPOSITORY / "assets" / "tiny" / "harmony_vae.safetensors")
    expected = library_decode(vae, latent, pixels(DEMO / "composite.png"), pixels(DEMO / "mask.png", 1))
    assert difference(result.images["conditional"][0], as_picture(expected)) <= TOLERANCE


def test_the_demos_photograph_gets_closer_to_the_real_one(run, tiny):
    harmonized = Image.fromarray(run(tiny).images["conditional"][0])
    real, mask, composite = (Image.open(DEMO / f"{name}.png") for name in ("real", "mask", "composite"))
    before, after = (measure(picture, real, mask, size=None, real_background=False) for picture in (composite, harmonized))
    assert after.fmse < 0.9 * before.fmse
