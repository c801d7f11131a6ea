"""What the host's cache spares: which models run again when an input changes, counted in the host (issue 12)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from diffharmony.tests.host.comfy_client import run_prompt
from diffharmony.tests.host.comfy_server import ComfyServer
from diffharmony.tests.host.prompts import changed, harmonize, in_one, without

COUNTER = Path(__file__).parent / "inside" / "call_counter"


@pytest.fixture(scope="module")
def calls_of(host, made, tmp_path_factory):
    """Queue a prompt; how often each model ran for it."""
    with ComfyServer(tmp_path_factory.mktemp("counted"), host, custom_nodes=(COUNTER,)) as running:
        for folder, name in (("vae", "harmony_vae"), ("diffusion_models", "harmonization_unet")):
            running.add_model(folder, made / f"{name}.safetensors")
        for name in ("composite.png", "mask.png"):
            running.add_input(made / name)

        def calls(prompt) -> dict[str, int]:
            before = len(running.log)
            run_prompt(running.url, prompt)
            return dict(Counter(re.findall(r"called (\w+)", running.log[before:])))

        yield calls


def test_only_what_depends_on_a_change_runs_again(calls_of):
    prompt = without(harmonize(seed=1), "plain", "plain_decode")
    assert calls_of(prompt) == {"Encoder": 1, "UNetModel": 5, "ConditionalEncoder": 1}
    for change in ({"seed": 2}, {"steps": 3}):  # E does not run again
        found = calls_of(changed(prompt, sampler=change))
        assert found == {"UNetModel": change.get("steps", 5), "ConditionalEncoder": 1}, change
    assert calls_of(changed(prompt, sampler={"steps": 3}, decode={"paste_background": False})) == {"ConditionalEncoder": 1}  # no sampler, no E


def test_variants_in_one_node_share_what_does_not_depend_on_the_seed(calls_of):
    pair = "harmonization_unet.safetensors + harmony_vae.safetensors"
    assert calls_of(in_one(models=pair, variants=3, steps=2, crop_to_foreground=False)) == {"Encoder": 1, "UNetModel": 6, "ConditionalEncoder": 1}
