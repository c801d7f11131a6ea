"""Composites made of a real photograph in a real ComfyUI: candidates, scores, selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffharmony.classifier.checkpoint import load_harmony_classifier
from diffharmony.classifier.inference import unharmonious_probability
from diffharmony.common.images import paste_background, tensor_to_pil
from diffharmony.common.sheets import labelled_sheet
from diffharmony.inverse import candidate_seed
from diffharmony.tests.host.comfy_client import run_prompt
from diffharmony.tests.host.prompts import added, changed, harmonize, node, without
from diffharmony.tests.host.test_workflow import TOLERANCE, as_picture, as_tensor, difference, library_decode, pixels, saved_latent
from diffharmony.tests.made.inverse_prompts import build_dataset, inverse

STEPS = 5


@pytest.fixture(scope="module")
def inverse_vae(made):
    from diffharmony.harmony_vae import load_harmony_vae

    return load_harmony_vae(made / "inverse_harmony_vae.safetensors")


def candidates_of(result) -> list[np.ndarray]:
    return result.images["saved"]


def by_hand(seed: int):
    """One candidate with core nodes, from a seed of KSampler's; `conditional` is the image."""
    prompt = changed(
        harmonize(composite="real.png", vae="inverse_harmony_vae.safetensors", unet="inverse_unet.safetensors", seed=seed),
    )
    prompt["unet"]["class_type"] = "DiffHarmonyLoadInverseUNet"
    latent = node("SaveLatent", samples=["sampler", 0], filename_prefix="test")
    return added(without(prompt, "plain", "plain_decode"), latent=latent)


def test_candidates_are_the_real_image_outside_the_mask_and_differ_inside(run, made):
    result = run(inverse(candidates=3))
    real, background = pixels(made / "real.png"), pixels(made / "mask.png", 1) == 0
    candidates = candidates_of(result)
    assert len(candidates) == 3
    assert all(np.array_equal(candidate[background], real[background]) for candidate in candidates)
    assert all(difference(candidate, real) > TOLERANCE for candidate in candidates)
    assert all(difference(candidates[a], candidates[b]) > TOLERANCE for a, b in ((0, 1), (0, 2), (1, 2)))
    assert all(np.array_equal(*pair) for pair in zip(result.images["candidates"], candidates, strict=True))  # what the node shows


def test_a_candidate_does_not_depend_on_how_many_there_are(run):
    three, one, other = (candidates_of(run(inverse(candidates=count, seed=seed))) for count, seed in ((3, 4), (1, 4), (2, 5)))
    assert np.array_equal(three[0], one[0])
    assert all(difference(first, second) > 0 for first in three for second in other)


def test_a_candidate_is_what_ksampler_and_the_library_make_of_its_seed(server, run, made, inverse_vae):
    second = candidates_of(run(inverse(candidates=2, seed=6)))[1]
    result = run(by_hand(candidate_seed(6, "image", "mask", 1)))
    assert np.array_equal(second, result.images["conditional"][0])
    real, mask = pixels(made / "real.png"), pixels(made / "mask.png", 1)
    decoded = library_decode(inverse_vae, saved_latent(server, result), real, mask)
    pasted = paste_background(decoded.clamp(-1, 1), as_tensor(real) * 2 - 1, as_tensor(mask))
    assert difference(second, as_picture(pasted)) <= 1


def test_a_photograph_of_odd_size_keeps_its_size_and_background(run, made):
    image = candidates_of(run(inverse(real="odd.png", mask="odd_mask.png", candidates=1)))[0]
    background = pixels(made / "odd_mask.png", 1) == 0
    assert np.array_equal(image[background], pixels(made / "odd.png")[background])
    assert difference(image, pixels(made / "odd.png")) > TOLERANCE


def test_a_list_of_photographs_is_worked_through(run, made):
    prompt = added(
        changed(inverse(candidates=2), candidates={"image": ["list", 0]}),
        second=node("LoadImage", image="second.png"),
        both=node("ImageBatch", image1=["real", 0], image2=["second", 0]),
        list=node("RebatchImages", images=["both", 0], batch_size=1),
    )
    background = pixels(made / "mask.png", 1) == 0
    for candidate, name in zip(candidates_of(run(prompt)), ("real", "real", "second", "second"), strict=True):
        assert np.array_equal(candidate[background], pixels(made / f"{name}.png")[background])


def test_one_progress_bar_for_all_candidates(run):
    result = run(inverse(candidates=3, seed=11))
    values = result.progress["candidates"]
    assert {total for _, total in values} == {3 * (STEPS + 1)}
    done = [value for value, _ in values]
    assert done == sorted(done) and done[-1] == 3 * (STEPS + 1)


def test_stopping_ends_the_run_between_two_steps(server):
    result = run_prompt(server.url, inverse(candidates=64, seed=12), fails=True, interrupt=("candidates", 3))
    assert result.error == "execution_interrupted"
    done, total = result.progress["candidates"][-1]
    assert 3 <= done < total / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": {"model": ["harmonizing", 0]}}, "Inverse Candidates: model must be of direction 'invert', got 'harmonize'"),
        ({"candidates": {"empty_prompt": ["harmonizing", 1]}}, "empty_prompt must be of direction 'invert', got 'harmonize'"),
        ({"vae": {"vae_name": "harmony_vae.safetensors"}}, "Inverse Candidates: vae must be of direction 'invert', got 'harmonize'"),
        ({"candidates": {"vae": ["plain", 0]}}, "Inverse Candidates needs a Harmony-VAE; got a plain VAE"),
        ({"unet": {"unet_name": "harmonization_unet.safetensors"}}, "must be of direction 'invert', got 'harmonize'"),
        ({"candidates": {"image": ["both", 0]}}, "image must be one for all candidates, got a batch of 2"),
        ({"candidates": {"mask": ["real", 1]}}, "mask must have foreground (white"),
    ],
)  # fmt: skip
def test_what_is_no_inverse_model_or_no_single_photograph_is_refused(error_of, changes, message):
    prompt = added(
        inverse(candidates=1),
        harmonizing=node("DiffHarmonyLoadHarmonizationUNet", unet_name="harmonization_unet.safetensors"),
        plain=node("VAELoader", vae_name="pixel_space"),
        both=node("RepeatImageBatch", image=["real", 0], amount=2),
    )
    assert message in error_of(changed(prompt, **changes))


def scored(classifier: str, with_mask: bool):
    prompt = {
        "real": node("LoadImage", image="real.png"),
        "second": node("LoadImage", image="second.png"),
        "both": node("ImageBatch", image1=["real", 0], image2=["second", 0]),
        "mask": node("LoadImageMask", image="mask.png", channel="red"),
        "classifier": node("DiffHarmonyLoadHarmonyClassifier", classifier_name=classifier),
        "score": node("DiffHarmonyHarmonyScore", classifier=["classifier", 0], images=["both", 0]),
        "scores": node("PreviewAny", source=["score", 0]),
        "sheet": node("PreviewImage", images=["score", 1]),
    }
    return changed(prompt, score={"mask": ["mask", 0]}) if with_mask else prompt


@pytest.mark.parametrize(("classifier", "with_mask"), [("harmony_classifier.safetensors", False), ("crop_classifier.safetensors", True)])
def test_scores_are_the_librarys_own_and_stand_on_the_sheet(run, made, classifier, with_mask):
    result = run(scored(classifier, with_mask))
    images = torch.cat([as_tensor(pixels(made / name)) for name in ("real.png", "second.png")]) * 2 - 1
    mask = as_tensor(pixels(made / "mask.png", 1)) if with_mask else None
    expected = unharmonious_probability(load_harmony_classifier(made / classifier), images, mask)
    assert [float(text) for text in result.texts["scores"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    sheet = labelled_sheet(images, [f"{index}: {score:.3f}" for index, score in enumerate(expected.tolist())])
    assert np.array_equal(result.images["sheet"][0], np.asarray(tensor_to_pil(sheet)[0]))


def test_a_classifier_of_the_foreground_needs_a_mask(error_of):
    assert "mask must be given to a classifier of masked regions" in error_of(scored("crop_classifier.safetensors", False))


def test_another_model_is_no_classifier(server, made, error_of):
    server.add_model("harmony_classifiers", made / "harmonization_unet.safetensors")
    assert "must be a harmony classifier" in error_of(scored("harmonization_unet.safetensors", False))


def selection(result) -> tuple[list[int], list[float], list[str]]:
    index, score, rejected = (result.texts[name] for name in ("index", "kept_score", "rejected"))
    return [int(text) for text in index], [float(text) for text in score], rejected


def select(**limits):
    """Select from four images of which only the third is not the real one."""
    prompt = added(
        without(build_dataset(), "vae", "unet", "pair", "sheet"),
        untouched=node("RepeatImageBatch", image=["real", 0], amount=2),
        second=node("LoadImage", image="second.png"),
        three=node("ImageBatch", image1=["untouched", 0], image2=["second", 0]),
        candidates=node("ImageBatch", image1=["three", 0], image2=["real", 0]),
        index=node("PreviewAny", source=["select", 1]),
        kept_score=node("PreviewAny", source=["select", 2]),
        rejected=node("PreviewAny", source=["select", 3]),
        scores=node("PreviewAny", source=["score", 0]),
    )
    return changed(prompt, select=limits)


def test_the_planted_candidate_is_selected(run, made):
    result = run(select(min_distance=1.0))
    index, score, rejected = selection(result)
    assert index == [2] and score == [float(result.texts["scores"][2])]
    assert np.array_equal(result.images["chosen"][0], pixels(made / "second.png"))
    assert [line.split(":")[0] for line in rejected[0].splitlines()] == ["0", "1", "3"]


def test_the_highest_scores_come_first(run):
    result = run(select(count=3))
    scores = [float(text) for text in result.texts["scores"]]
    index, score, _ = selection(result)
    assert score == sorted(scores, reverse=True)[:3] == [scores[place] for place in index]
    assert len(result.images["chosen"]) == 3


def test_when_all_are_rejected_the_reasons_are_told(error_of):
    message = error_of(select(min_distance=65025.0))
    assert "at least one candidate must be within the limits, got none:\n0: " in message and "Widen the limits" in message


def test_scores_of_other_images_are_refused(error_of):
    prompt = changed(select(), score={"images": ["real", 0]})
    assert "scores must be as many as candidates, 4, got 1" in error_of(prompt)


def test_of_a_list_of_photographs_each_is_selected_from(run, made):
    """The second photograph's candidates are itself: it is left out."""
    prompt = added(
        select(min_distance=1.0),
        both=node("ImageBatch", image1=["real", 0], image2=["second", 0]),
        reals=node("RebatchImages", images=["both", 0], batch_size=1),
        candidates=node("RebatchImages", images=["changed", 0], batch_size=2),
        changed=node("ImageBatch", image1=["real_and_second", 0], image2=["seconds", 0]),
        real_and_second=node("ImageBatch", image1=["real", 0], image2=["second", 0]),
        seconds=node("RepeatImageBatch", image=["second", 0], amount=2),
    )
    result = run(changed(prompt, select={"real": ["reals", 0]}))
    index, _, rejected = selection(result)
    assert index == [1] and len(result.images["chosen"]) == 1
    assert np.array_equal(result.images["chosen"][0], pixels(made / "second.png"))
    assert len(rejected) == 2 and [line.split(":")[0] for line in rejected[1].splitlines()] == ["0", "1"]
