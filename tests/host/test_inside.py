"""Parts of the nodes that the API does not show, run with the host's own Python and modules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parent / "inside"
UNETS = {
    "epsilon": dict(block_out_channels=(32, 64), prediction_type="epsilon"),
    "inner_attention": dict(
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
    ),
    "four_heads_two_layers_linear": dict(
        block_out_channels=(32, 32, 64), attention_head_dim=4, layers_per_block=2, cross_attention_dim=48, use_linear_projection=True
    ),
}
REFUSED = {
    "odd_widths": (dict(block_out_channels=(64, 96)), "block_out_channels must be multiples of the first and of 32, got [64, 96]"),
    "few_groups": (dict(block_out_channels=(32, 64), norm_num_groups=8), "norm_num_groups must be 32, got 8"),
    "other_blocks": (
        dict(block_out_channels=(32, 64), down_block_types=("AttnDownBlock2D", "DownBlock2D")),
        "UNet blocks must be CrossAttnDownBlock2D or DownBlock2D, got AttnDownBlock2D",
    ),
}


def run_inside(host, script: str, *arguments) -> dict:
    command = [str(host.python), str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=host.path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def make_unet(path: Path, prediction_type: str = "v_prediction", **config) -> Path:
    from diffusers import UNet2DConditionModel

    from diffharmony.diffusion import save_unet

    levels = len(config["block_out_channels"])
    defaults = {
        "attention_head_dim": 8,
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
    }
    config = {**defaults, **config}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(in_channels=9, out_channels=4, **config)
    prompt = torch.randn(1, 77, config["cross_attention_dim"])
    save_unet(unet, path, empty_prompt_embeds=prompt, prediction_type=prediction_type)
    return path


@pytest.fixture(scope="module")
def parity(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unets")
    configs = {**UNETS, **{name: config for name, (config, _) in REFUSED.items()}}
    return run_inside(host, "unet_parity.py", *(make_unet(folder / f"{name}.safetensors", **config) for name, config in configs.items()))


@pytest.mark.parametrize("name", UNETS)
def test_the_hosts_unet_is_diffusers_own(parity, name):
    measured = parity[name]
    assert measured["forward_difference"] < 1e-4
    assert measured["denoised_difference"] < 1e-4
    assert measured["model_type"] == ("EPS" if name == "epsilon" else "V_PREDICTION")
    assert measured["sigma_range"] == pytest.approx([0.0292, 14.6146], abs=1e-3)
    assert measured["concat_keys"] == ["mask", "masked_image"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_unet_that_the_host_cannot_be_is_refused(parity, name):
    assert REFUSED[name][1] in parity[name]["refused"]


@pytest.fixture(scope="module")
def decoded(host, made):
    return run_inside(host, "out_of_memory.py", made / "harmony_vae.safetensors")


def test_one_condition_is_encoded_once_for_all_latents(decoded):
    assert decoded["conditions_encoded"] == 1


def test_out_of_memory_falls_back_to_tiles_under_the_condition(decoded):
    assert decoded["difference_from_tiled"] < 1e-5 and decoded["difference_from_whole"] < 1e-4
    assert decoded["modes"] == ["exact", "bounded", "bounded"]  # of two latents; what ran out of memory is not tried again
    assert any("tiles of 64 px (bounded)" in message for message in decoded["messages"])
    assert decoded["difference_from_plain"] > 0.05
    assert decoded["whole_attempts"] == 1
    assert any("tiles of 64 px" in message for message in decoded["messages"])
    assert decoded["other_error"] == "something else"


def test_tiles_are_begun_with_where_little_memory_is_free_or_one_asks_for_them(decoded):
    assert decoded["modes_in_little_memory"] == ["bounded"] * 2
    assert decoded["modes_at_once"] == ["bounded"] * 2


def test_the_hosts_own_encode_steps_down_to_tiles_that_equal_it(decoded):
    assert decoded["encode_difference"] < 1e-4
    assert any("encode: it goes on in tiles of 64 px (exact)" in message for message in decoded["messages"])


def test_a_unet_without_its_empty_prompt_is_refused_where_it_is_loaded(host, tmp_path):
    found = run_inside(host, "unet_without_prompt.py", make_unet(tmp_path / "unet.safetensors", block_out_channels=(32, 64)))
    expected = "sd15.SAFETENSORS must carry an empty-prompt embedding to be sampled, got none. Bake it in with: diffharmony convert"
    assert found is not None and found.startswith(expected)
