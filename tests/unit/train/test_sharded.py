"""Weights spread over processes by torch (FSDP 2): the same training, and states that both ways go on from."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from diffharmony.tests.made.sharded_training import begun_by, ended_well, start_sharded
from diffharmony.tests.made.training import unet_command, vae_command, weights_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on CPUs: two processes cannot share a GPU")
STEPS = 4


def command(root, base, out, **options):
    # a norm that every gradient exceeds
    return vae_command(
        root, base, out, optim__steps=STEPS, optim__accumulation=2, optim__gradient_clip=1e-3, run__save_every=2, run__sample_every=2,
        run__validation_list="IHD_train.txt", run__validation_images=3, run__validate_every=2, **options,
    )  # fmt: skip


def logged(run):
    return [row for line in (run / "log.jsonl").read_text().splitlines() for row in json.loads(line).values()]


def check_close(found, expected):
    """To float32 rounding; where gradients are of rounding's size, Adam turns their sign, which is chance, into a step."""
    found, expected = weights_of(found), weights_of(expected)
    assert found.keys() == expected.keys()
    differences = torch.cat([(found[name] - tensor).abs().flatten() for name, tensor in expected.items()])
    assert differences.max() < 2e-4 and differences.mean() < 1e-6


@pytest.fixture(scope="module")
def unsharded(runs, root, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("unsharded")
    runs.start(*command(root, base, out)).result()
    return out


def test_sharded_is_unsharded(runs, root, base, tmp_path, unsharded):
    """Final averaged and last weights, losses, validation; a kill; states carried from one way to the other and back."""
    whole = tmp_path / "whole"
    ended_well(start_sharded(runs, *command(root, base, whole)))
    check_close(whole, unsharded)
    assert logged(whole) == pytest.approx(logged(unsharded), rel=1e-4)
    assert len(list((whole / "samples").iterdir())) == 2

    killed = start_sharded(runs, *command(root, base, tmp_path / "killed"))
    while killed[0].alive() and not (tmp_path / "killed" / "state" / "step-00000002.pt").is_file():
        time.sleep(0.005)
    for run in killed:
        run.kill()
    assert not (tmp_path / "killed" / "state" / f"step-{STEPS:08d}.pt").exists(), killed[0].output()
    ended_well(start_sharded(runs, *command(root, base, tmp_path / "killed")))
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(tmp_path / "killed").items())

    onward = begun_by(unsharded, 2, tmp_path / "onward")
    ended_well(start_sharded(runs, *command(root, base, onward)))
    check_close(onward, unsharded)
    back = begun_by(whole, 2, tmp_path / "back")
    runs.start(*command(root, base, back)).result()
    check_close(back, unsharded)


def test_half_precision(runs, root, base, tmp_path):
    """bf16 with checkpointing, for a task that makes tensors of its own, and whose frozen VAE is no part of what is spread."""
    def command(out):
        half = {"run__mixed_precision": "bf16", "optim__accumulation": 2, "optim__steps": 2, "optim__schedule": "constant_with_warmup"}
        return [*unet_command(root, base, tmp_path / out, **half), "--run.gradient-checkpointing"]

    whole = runs.start(*command("whole")).result()
    ended_well(start_sharded(runs, *command("sharded")))
    found, expected = (load_file(tmp_path / out / "unet.safetensors") for out in ("sharded", "whole"))
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    differences = torch.cat([(found[name] - tensor).abs().flatten() for name, tensor in expected.items()])
    assert 0 < differences.mean() < 1e-4
    assert logged(tmp_path / "sharded") == pytest.approx(logged(tmp_path / "whole"), rel=0.01)
    assert whole["loss"] > 0
