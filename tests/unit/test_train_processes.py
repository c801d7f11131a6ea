"""Several processes, precision, accumulation, sharded weights: the same training."""

import json
import socket
from dataclasses import replace

import pytest
import torch

from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.tests.unit.made_training import small_vae, unet_config, vae_command, vae_config, weights_of
from diffharmony.tests.unit.sharded_training import small_model, take_steps, training_parts
from diffharmony.train import unet, vae
from diffharmony.train.config import RunConfig
from diffharmony.train.processes import check_accelerate
from diffharmony.train.state import read_state


def largest_difference(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_give_the_weights_of_one(runs, root, base, tmp_path):
    """At half the batch each, to float32 rounding; a resume by another number of processes goes on with the same run."""
    def command(out, steps):
        return vae_command(root, base, tmp_path / out, optim__accumulation=2, optim__steps=steps, optim__schedule="constant_with_warmup")

    runs.start(*command("one", 6)).result()
    two = runs.start_processes(2, *command("two", 3))
    assert [run.wait() for run in two] == [0, 0], two[1].output()
    assert "{" in two[0].output() and "{" not in two[1].output()  # one JSON object, not two
    runs.start(*command("two", 6)).result()
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    # Adam turns a gradient's sign into a step: where gradients are of rounding's size, so is the sign chance
    differences = torch.cat([(weights_of(one)[name] - tensor).abs().flatten() for name, tensor in weights_of(two).items()])
    assert differences.max() < 2e-4 and differences.mean() < 1e-6
    assert len(list((two / "state").iterdir())) == 2


def test_a_bad_loss_stops_every_process_with_the_images_of_all(runs, root, tmp_path):
    broken = HarmonyVAE.from_autoencoder_kl(small_vae())
    with torch.no_grad():
        broken.decoder.conv_out.bias.fill_(3e38)
    save_harmony_vae(broken, tmp_path / "huge.safetensors", dtype=torch.float32)
    stopped = runs.start_processes(2, *vae_command(root, tmp_path / "huge.safetensors", tmp_path / "run", optim__accumulation=2))
    assert [run.wait() for run in stopped] == [1, 1]
    for run in stopped:
        assert "loss must be finite, got inf at step 1 for" in run.output() and run.output().count("composite_images") == 4
    assert not list((tmp_path / "run").glob("**/*.pt"))


def test_an_error_of_the_first_process_reaches_the_others(runs, root, base, tmp_path):
    runs.start(*vae_command(root, base, tmp_path / "run", optim__steps=1)).result()
    refused = runs.start_processes(2, *vae_command(root, base, tmp_path / "run", optim__steps=1, optim__learning_rate=0.5))
    assert [run.wait() for run in refused] == [1, 1]
    assert all("optim.learning_rate must be 0.0005 to go on with the run" in run.output() for run in refused)
    odd = runs.start(*vae_command(root, base, tmp_path / "odd"), environment={"WORLD_SIZE": "3"})
    assert odd.wait() == 1 and "optim.batch_size must be a multiple of accumulation x processes = 3, got 4" in odd.output()


def test_precisions_in_one_process(root, base, tmp_path):
    """accelerate remembers the first precision of a process; a second training with another one must get its own."""
    def train(name, **run):
        config = vae_config(root, base, tmp_path / name)
        vae.main(replace(config, run=replace(config.run, tracker="none", **run)))
        return weights_of(tmp_path / name)

    full, half, again = train("full"), train("half", mixed_precision="bf16"), train("again")
    assert largest_difference(full, again) == 0
    assert 1e-5 < largest_difference(full, half) < 0.05
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert largest_difference(full, train("checkpointed", gradient_checkpointing=True)) < 1e-5


def test_accumulation_changes_nothing_but_rounding(root, base, tmp_path):
    config = unet_config(root, base, tmp_path / "whole")
    config = replace(config, optim=replace(config.optim, batch_size=4), run=replace(config.run, tracker="none"))
    unet.main(config)
    unet.main(replace(config, optim=replace(config.optim, accumulation=4), run=replace(config.run, out=tmp_path / "parts")))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "run.mixed_precision must be accelerate's own 'bf16', got 'no'"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "must not name DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version must be 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP must run on GPUs"),
    ],
)
def test_what_accelerate_was_told_otherwise(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "GPUs" in message and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        check_accelerate(RunConfig())


def test_half_precision_on_a_cpu(root, base, tmp_path):
    config = vae_config(root, base, tmp_path / "run")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="run.mixed_precision must be no or bf16 on a CPU, got fp16"):
        vae.main(replace(config, run=replace(config.run, mixed_precision="fp16")))
    assert not (tmp_path / "run").exists()


def test_weights_sharded_by_torch(runs, tmp_path):
    """torch's own sharding (fully_shard, what FSDP of version 2 is), two processes: its state goes on unsharded, and back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sharding = [runs.call("diffharmony.tests.unit.sharded_training:train_sharded", rank, port, str(tmp_path)) for rank in range(2)]
    assert [run.wait() for run in sharding] == [0, 0], sharding[0].output()
    sharded = torch.load(tmp_path / "state" / "step-00000003.pt", weights_only=True)
    model = small_model()
    parts = training_parts(model)
    assert read_state(tmp_path / "state" / "step-00000003.pt", *parts) == 3
    take_steps(model, parts, 3, 5, 0, 1)
    resharded = torch.load(tmp_path / "state" / "step-00000005.pt", weights_only=True)
    for found, parameter in zip(resharded["parameters"], parts[0], strict=True):
        torch.testing.assert_close(found, parameter.detach(), atol=1e-5, rtol=1e-4)
    for found, average in zip(resharded["ema"]["shadow_params"], parts[3].shadow_params, strict=True):
        torch.testing.assert_close(found, average, atol=1e-5, rtol=1e-4)
    assert not torch.equal(sharded["parameters"][0], resharded["parameters"][0])
