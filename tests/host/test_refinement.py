"""The refinement stage in a real ComfyUI, beside the library's own result."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffharmony.refinement import HarmonyRefinement, load_refinement, refine, save_refinement
from diffharmony.tests.host.prompts import added, changed, harmonize, node
from diffharmony.tests.host.test_workflow import (
    TOLERANCE,
    as_picture,
    as_tensor,
    difference,
    library_decode,
    pixels,
    saved_latent,
    with_latent,
)

FOLDER = "harmony_refinement"


def made_model() -> HarmonyRefinement:
    torch.manual_seed(0)
    return HarmonyRefinement(
        sample_size=64, block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4, downsample_padding=0, attention_head_dim=None, norm_eps=1e-6, input_residual=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def refinement(server, made, tmp_path_factory):
    """The library's model; the server has its file, its weights in a folder as the authors', and what is none."""
    folder = tmp_path_factory.mktemp("refinement")
    model = made_model()
    save_refinement(model, folder / "refinement.safetensors", dtype=torch.float32)
    models = server.base / "models" / FOLDER
    (models / "authors").mkdir(parents=True, exist_ok=True)
    server.add_model(FOLDER, folder / "refinement.safetensors")
    server.add_model(FOLDER, made / "plain_vae.safetensors")
    server.add_model(FOLDER, made / "harmonization_unet.safetensors")
    (models / "authors" / "config.json").write_text(json.dumps({**model.config, "_class_name": "UNet2DCustom"}))
    save_file(model.state_dict(), models / "authors" / "diffusion_pytorch_model.safetensors")
    (models / "damaged.safetensors").write_bytes((folder / "refinement.safetensors").read_bytes()[:5000])
    return load_refinement(folder / "refinement.safetensors")


def refined(name="refinement.safetensors", images="second.png", composite="composite.png", mask="mask.png", paste=False):
    """`images` refined as the harmonized form of `composite`."""
    return {
        "images": node("LoadImage", image=images),
        "composite": node("LoadImage", image=composite),
        "mask": node("LoadImageMask", image=mask, channel="red"),
        "refinement": node("DiffHarmonyLoadRefinement", refinement_name=name),
        "refine": node(
            "DiffHarmonyRefine",
            refinement=["refinement", 0],
            images=["images", 0],
            composite=["composite", 0],
            mask=["mask", 0],
            paste_background=paste,
        ),
        "refined": node("PreviewImage", images=["refine", 0]),
    }


def library(model, made, images="second.png", composite="composite.png", mask="mask.png") -> np.ndarray:
    harmonized, composite = (as_tensor(pixels(made / name)) * 2 - 1 for name in (images, composite))
    return as_picture(refine(model, harmonized, composite, as_tensor(pixels(made / mask, 1))))


@pytest.mark.parametrize("name", ["refinement.safetensors", "authors/diffusion_pytorch_model.safetensors"])
def test_the_image_is_the_librarys_own(run, made, refinement, name):
    image = run(refined(name)).images["refined"][0]
    assert difference(image, library(refinement, made)) <= TOLERANCE
    assert difference(image, pixels(made / "second.png")) > 10 * TOLERANCE


def test_an_image_of_odd_size(run, made, refinement):
    files = {"images": "odd.png", "composite": "odd.png", "mask": "odd_mask.png"}
    image = run(refined(**files)).images["refined"][0]
    assert image.shape == (75, 101, 3)
    assert difference(image, library(refinement, made, **files)) <= TOLERANCE


def test_background_is_the_composites_own(run, made, refinement):
    image = run(refined(paste=True)).images["refined"][0]
    background = pixels(made / "mask.png", 1) == 0
    assert np.array_equal(image[background], pixels(made / "composite.png")[background])
    assert difference(image[~background][None], library(refinement, made)[~background][None]) <= TOLERANCE


def test_a_batch_shares_one_composite_and_mask(run, made, refinement):
    prompt = added(
        changed(refined(), refine={"images": ["both", 0]}),
        both=node("ImageBatch", image1=["images", 0], image2=["composite", 0]),
    )
    for image, name in zip(run(prompt).images["refined"], ("second.png", "composite.png"), strict=True):
        assert difference(image, library(refinement, made, images=name)) <= TOLERANCE


def test_after_a_decode_in_one_workflow(server, run, made, refinement, library_vae):
    prompt = added(
        changed(harmonize(), decode={"paste_background": False}),
        refinement=node("DiffHarmonyLoadRefinement", refinement_name="refinement.safetensors"),
        refine=node(
            "DiffHarmonyRefine", refinement=["refinement", 0], images=["decode", 0], composite=["composite", 0], mask=["mask", 0],
            paste_background=False,
        ),
        refined=node("PreviewImage", images=["refine", 0]),
    )  # fmt: skip
    result = run(with_latent(prompt))
    composite, mask = pixels(made / "composite.png"), pixels(made / "mask.png", 1)
    decoded = library_decode(library_vae, saved_latent(server, result), composite, mask).clamp(-1, 1)
    expected = as_picture(refine(refinement, decoded, as_tensor(composite) * 2 - 1, as_tensor(mask)))
    assert difference(result.images["refined"][0], expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "found"),
    [("plain_vae.safetensors", "got a plain VAE"), ("harmonization_unet.safetensors", "got a UNet (pass it as the UNet)")],
)
def test_another_model_is_refused_by_name(error_of, refinement, name, found):
    message = error_of(refined(name))
    assert name in message and "must be a refinement model" in message and found in message


def test_a_damaged_file_is_refused(error_of, refinement):
    message = error_of(refined("damaged.safetensors"))
    assert "damaged.safetensors" in message and "copy or download it again" in message


def test_what_does_not_go_together_is_refused(error_of, refinement):
    message = error_of(refined(images="odd.png"))
    assert "images must be as large as composite (128 x 96 px, width x height), got 101 x 75 px" in message
    prompt = added(
        changed(refined(), refine={"images": ["three", 0], "composite": ["both", 0]}),
        both=node("ImageBatch", image1=["images", 0], image2=["composite", 0]),
        three=node("ImageBatch", image1=["both", 0], image2=["composite", 0]),
    )
    assert "composite must have batch 1 or 3, got 2" in error_of(prompt)


def test_the_loader_offers_the_folders_files(server, refinement):
    with urllib.request.urlopen(f"{server.url}/object_info/DiffHarmonyLoadRefinement", timeout=60) as response:
        required = json.load(response)["DiffHarmonyLoadRefinement"]["input"]["required"]
    assert "refinement.safetensors" in str(required["refinement_name"])
    assert "authors/diffusion_pytorch_model.safetensors" in str(required["refinement_name"])
