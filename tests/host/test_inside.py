"""Parts of the nodes that the API does not show, run with the host's own Python and modules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parent / "inside"
UNETS = {
    "epsilon": dict(block_out_channels=(32, 64), attention_head_dim=8, cross_attention_dim=32, prediction_type="epsilon"),
    "attention on the inner levels": dict(
        block_out_channels=(64, 128, 192),
        attention_head_dim=8,
        cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        prediction_type="v_prediction",
    ),
    "four heads, two layers, linear projection": dict(
        block_out_channels=(32, 32, 64),
        attention_head_dim=4,
        layers_per_block=2,
        cross_attention_dim=48,
        use_linear_projection=True,
        prediction_type="v_prediction",
    ),
}


def run_inside(host, script: str, *arguments) -> dict:
    command = [str(host.python), str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=host.path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def make_unet(path: Path, prediction_type: str, **config) -> Path:
    from diffusers import UNet2DConditionModel

    from diffharmony.diffusion import save_unet

    levels = len(config["block_out_channels"])
    config.setdefault("down_block_types", ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",))
    config.setdefault("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1))
    config.setdefault("layers_per_block", 1)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(in_channels=9, out_channels=4, **config)
    prompt = torch.randn(1, 77, config["cross_attention_dim"])
    save_unet(unet, path, empty_prompt_embeds=prompt, prediction_type=prediction_type)
    return path


@pytest.mark.parametrize("name", UNETS)
def test_the_hosts_unet_is_diffusers_own(host, tmp_path, name):
    measured = run_inside(host, "unet_parity.py", make_unet(tmp_path / "unet.safetensors", **UNETS[name]))
    assert measured["difference"] < 1e-4
    assert measured["denoised_difference"] < 1e-4
    assert measured["model_type"] == {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[UNETS[name]["prediction_type"]]
    assert measured["sigma_max"] == pytest.approx(14.6146, abs=1e-3)
    assert measured["sigma_min"] == pytest.approx(0.0292, abs=1e-4)
    assert measured["concat_keys"] == ["mask", "masked_image"]


def test_out_of_memory_falls_back_to_tiles_under_the_condition(host, made):
    measured = run_inside(host, "out_of_memory.py", made / "harmony_vae.safetensors")
    assert measured["difference_from_tiled"] < 1e-5
    assert measured["difference_from_plain"] > 0.05
    assert measured["whole_attempts"] == 1
    assert any("tiles of 64 px" in message for message in measured["messages"])
    assert measured["other_error"] == "something else"
