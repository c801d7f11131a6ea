"""Several processes, precision, accumulation: the same training. Sharded weights are in test_train_sharded.py."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.tests.made.training import refinement_command, small_vae, unet_command, unet_config, vae_command, vae_config, weights_of
from diffharmony.train import unet, vae
from diffharmony.train.config import RunConfig
from diffharmony.train.run.accelerator import check_accelerate


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
    expected = weights_of(one)
    differences = torch.cat([(expected[name] - tensor).abs().flatten() for name, tensor in weights_of(two).items()])
    assert differences.max() < 2e-4 and differences.mean() < 1e-6
    assert len(list((two / "state").iterdir())) == 2


def launched(launcher, *command):
    """What a launcher's own command line prints, with nothing in the environment that another one set."""
    unset = ("ACCELERATE_USE_CPU", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *launcher, "-m", "diffharmony", *map(str, command)]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_torchrun_starts_several_on_a_cpu(root, base, tmp_path):
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    printed = launched(torchrun, *vae_command(root, base, tmp_path / "plan", optim__accumulation=2), "--dry-run")
    assert printed.count("2 processes") == 1, printed


def test_accelerate_tells_that_it_starts_one_on_a_cpu(root, base, tmp_path):
    accelerate = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    printed = launched(accelerate, *vae_command(root, base, tmp_path / "plan"), "--dry-run")
    assert "accelerate launch starts one process on a CPU" in printed and "2 processes" not in printed


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
    assert all("optim.learning_rate must be 0.0005 to go on in" in run.output() for run in refused)
    odd = runs.start(*vae_command(root, base, tmp_path / "odd"), environment={"WORLD_SIZE": "3"})
    assert odd.wait() == 1 and "optim.batch_size must be a multiple of accumulation x processes = 3, got 4" in odd.output()


def test_all_of_it_together(runs, root, base, tmp_path):
    """Two processes, accumulation and checkpointing, validation and sheets in between: every trainer gives what one process does."""
    def command(trainer, *models, count):
        options = {
            "optim__accumulation": 2, "optim__steps": 2, "run__save_every": 1, "run__sample_every": 1,
            "run__validation_list": "IHD_train.txt", "run__validate_every": 1, "run__validation_images": 2, "run__samples": 1, "optim__schedule": "constant_with_warmup",
        }  # fmt: skip
        out = tmp_path / f"{trainer.__name__}-{count}"
        return [*trainer(root, *models, out, **options), "--run.gradient-checkpointing"]

    models = (tmp_path / "vae_command-1" / "harmony_vae.safetensors", tmp_path / "unet_command-1" / "unet.safetensors")
    for trainer, given in ((vae_command, (base,)), (unet_command, (base,)), (refinement_command, models)):
        runs.start(*command(trainer, *given, count=1)).result()
        two = runs.start_processes(2, *command(trainer, *given, count=2))
        assert [run.wait() for run in two] == [0, 0], two[0].output() + two[1].output()
        rows = [(tmp_path / f"{trainer.__name__}-{count}" / "log.jsonl").read_text().splitlines() for count in (1, 2)]
        one, two = ([value for line in lines for value in json.loads(line).values()] for lines in rows)
        assert two == pytest.approx(one, rel=0.02)


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


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "run.mixed_precision must be accelerate's own 'bf16', got 'no'"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version must be 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params must be false"),
        ({**FSDP, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy must be NO_WRAP or TRANSFORMER_BASED_WRAP"),
        (FSDP, "FSDP must run on GPUs"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "by FSDP 2, or not at all, got DeepSpeed"),
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
