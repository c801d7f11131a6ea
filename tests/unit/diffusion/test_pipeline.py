"""The diffusers pipeline: the same as harmonize(), with pictures, folders, other schedulers."""

import copy

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from diffharmony.common.images import tensor_to_pil
from diffharmony.diffusion import DiffHarmonyPipeline, build_scheduler, harmonize, load_unet
from diffharmony.tests.unit.diffusion.test_inference import pair


def test_pipeline_equals_the_function(vae, unet, capsys):
    composite, mask = pair(40, 64, batch=2)
    pipe = DiffHarmonyPipeline(vae=vae, unet=unet)
    out = pipe(composite, mask, seed=3, output_type="pt").images
    assert torch.equal(out, harmonize(vae, unet, composite, mask, seed=3))
    assert "5/5" in capsys.readouterr().err
    assert torch.equal(pipe(composite, mask, seed=3, output_type="pt", return_dict=False)[0], out)


def test_pipeline_takes_and_gives_pictures(vae, unet):
    composite, mask = pair(40, 64, batch=2)
    pictures = tensor_to_pil(composite)
    masks = [p.convert("L") for p in tensor_to_pil((mask.round() * 2 - 1).expand(-1, 3, -1, -1))]
    pipe = DiffHarmonyPipeline(vae=vae, unet=unet)
    pipe.set_progress_bar_config(disable=True)
    assert [image.size for image in pipe(pictures, masks, steps=1).images] == [(64, 40)] * 2
    assert pipe(pictures[0], masks[0], steps=1).images[0].size == (64, 40)
    with pytest.raises(ValueError, match="one size"):
        pipe([pictures[0], pictures[1].resize((8, 8))], masks)
    with pytest.raises(ValueError, match="output_type"):
        pipe(composite, mask, output_type="np")


@pytest.mark.parametrize("conditional", [True, False])
def test_pipeline_round_trip(vae, plain_vae, unet, tmp_path, conditional):
    composite, mask = pair(48, 48)
    pipe = DiffHarmonyPipeline(vae=vae if conditional else plain_vae, unet=unet)
    unet.direction = "invert"
    try:
        pipe.save_pretrained(tmp_path)
    finally:
        unet.direction = "harmonize"
    again = DiffHarmonyPipeline.from_pretrained(tmp_path)
    assert type(again.vae) is type(pipe.vae)
    assert torch.equal(again.unet.empty_prompt_embeds, unet.empty_prompt_embeds)
    assert (again.unet.prediction_type, again.unet.direction) == ("v_prediction", "invert")
    assert again.scheduler.config.prediction_type == "v_prediction"
    assert again.vae.direction == load_unet(tmp_path).direction == "invert"
    run = {"composite": composite, "mask": mask, "output_type": "pt"}
    for name in ("vae", "unet"):
        before, after = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    # weights at another alignment in memory are summed in another order
    torch.testing.assert_close(again(**run).images, pipe(**run).images, rtol=0, atol=1e-5)
    half = DiffHarmonyPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.vae.dtype == half.unet.dtype == torch.bfloat16
    assert half(**run).images.dtype == torch.float32


def test_pipeline_scheduler_can_be_exchanged_and_is_checked(vae, unet, tmp_path):
    composite, mask = pair(32, 32)
    pipe = DiffHarmonyPipeline(vae=vae, unet=unet, scheduler=build_scheduler("v_prediction", ancestral=False))
    assert torch.equal(
        pipe(composite, mask, output_type="pt").images, harmonize(vae, unet, composite, mask, ancestral=False)
    )
    pipe.save_pretrained(tmp_path)
    assert isinstance(DiffHarmonyPipeline.from_pretrained(tmp_path).scheduler, EulerDiscreteScheduler)
    with pytest.raises(ValueError, match="scheduler must be for the UNet's prediction type 'v_prediction'"):
        DiffHarmonyPipeline(vae=vae, unet=unet, scheduler=build_scheduler("epsilon"))


def test_a_folder_that_is_no_pipeline_is_refused(unet, tmp_path):
    (tmp_path / "vae").mkdir()
    with pytest.raises(FileNotFoundError, match="pipeline folder must hold vae/ and unet/, looked in .*, which holds vae. "):
        DiffHarmonyPipeline.from_pretrained(tmp_path)


def test_pipeline_moves_and_casts(vae, unet):
    pipe = DiffHarmonyPipeline(vae=copy.deepcopy(vae), unet=copy.deepcopy(unet)).to("cpu", torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert pipe(*pair(32, 32), steps=1, output_type="pt").images.shape == (1, 3, 32, 32)
