"""Trainers: data, losses, the loop, a killed run (SPEC §2, §3, §7)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from filelock import FileLock
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.diffusion import load_unet
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, load_vae, save_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.train import autoencoder, unet, vae
from diffharmony.train.autoencoder import whiten_latents
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.data import CounterBatches, HarmonizationDataset, draw_crop, read_list
from diffharmony.train.latents import cache_latents
from diffharmony.train.losses import diffusion_loss, reconstruction_loss
from diffharmony.train.unet import Architecture, draw_timesteps

SIDE = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of six composites, in iHarmony4's layout, one name with a space and one with an umlaut."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = []
    for index, image in enumerate(["a1", "a2", "größe 3"]):
        subset = root / ("HCOCO" if index < 2 else "HFlickr")
        for folder in ("composite_images", "masks", "real_images"):
            (subset / folder).mkdir(parents=True, exist_ok=True)
        real = rng.integers(0, 256, (SIDE, SIDE + 8, 3), dtype=np.uint8)
        Image.fromarray(real).save(subset / "real_images" / f"{image}.png")
        for k in (1, 2):
            mask = np.zeros((SIDE, SIDE + 8), np.uint8)
            mask[5 * k : 5 * k + 12, 8:20] = 255
            composite = np.where(mask[..., None] > 0, real // 2, real)
            Image.fromarray(mask).save(subset / "masks" / f"{image}_{k}.png")
            Image.fromarray(composite).save(subset / "composite_images" / f"{image}_{k}_1.png")
            names.append(f"{subset.name}/composite_images/{image}_{k}_1.png")
    (root / "IHD_train.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (root / "train.jsonl").write_text("".join(json.dumps({"file_name": n, "text": ""}) + "\n" for n in names), encoding="utf-8")
    return root


def small_vae(seed=0):
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "vae.safetensors"
    save_autoencoder(small_vae(), path, dtype=torch.float32)
    return path


def vae_config(root, base, out, **changes):
    config = vae.HarmonyVAETraining(
        init=base, data=DataConfig(roots=(root,), size=32, min_crop=0.7, workers=0),
        optim=OptimConfig(learning_rate=2e-3, batch_size=2, steps=4, ema_decay=0.5),
        run=RunConfig(out=out, save_every=2, sample_every=2, samples=2),
    )  # fmt: skip
    return replace(config, **changes)


def unet_config(root, base, out, **changes):
    config = unet.UNetTraining(
        vae=base, data=DataConfig(roots=(root,), size=32, workers=0),
        optim=OptimConfig(learning_rate=2e-3, batch_size=2, steps=4, ema_decay=0.5),
        run=RunConfig(out=out, save_every=2, sample_every=2, samples=2),
        architecture=Architecture(block_out_channels=(32, 64), attention_levels=(False, True)), prediction_type="v_prediction",
    )  # fmt: skip
    return replace(config, **changes)


class TestData:
    def test_both_kinds_of_list_name_the_same_pairs(self, root):
        pairs = read_list(root, "IHD_train.txt")
        assert pairs == read_list(root, "train.jsonl") and len(pairs) == 6
        assert {pair.subset for pair in pairs} == {"HCOCO", "HFlickr"}
        assert pairs[-1].real.name == "größe 3.png" and pairs[-1].mask.name == "größe 3_2.png"

    @pytest.mark.parametrize(
        "line, error, message",
        [
            ("HCOCO/composite_images/a1_1_9.png", None, None),  # the composite itself is read later
            ("HCOCO/composite_images/a9_1_1.png", FileNotFoundError, "a9.png must exist, looked in .*real_images"),
            ("HCOCO/real_images/a1.png", ValueError, "line 1 of .* must be <subset>/composite_images"),
            ("", ValueError, "must name at least one composite"),
        ],
    )
    def test_lists_that_do_not_fit(self, root, line, error, message):
        (root / "other.txt").write_text(line + "\n")
        if error is None:
            assert len(read_list(root, "other.txt")) == 1
        else:
            with pytest.raises(error, match=message):
                read_list(root, "other.txt")
        with pytest.raises(FileNotFoundError, match="list file 'none.txt' must exist, looked in"):
            read_list(root, "none.txt")

    def test_samples_depend_on_seed_and_counter_only(self, root):
        config = DataConfig(roots=(root,), size=32, min_crop=0.5)
        first, second = HarmonizationDataset(config, 7), HarmonizationDataset(config, 7)
        order = [first[counter]["name"] for counter in range(6)]
        assert sorted(order) == sorted(str(pair.composite) for pair in first.pairs)  # an epoch is every pair once
        for counter in (11, 3, 6):
            assert all(np.array_equal(first[counter][name], second[counter][name]) for name in first[counter])
        assert [HarmonizationDataset(config, 8)[counter]["name"] for counter in range(6)] != order

    def test_mask_marks_what_differs_and_nothing_else(self, root):
        sample = HarmonizationDataset(DataConfig(roots=(root,), size=40, flip=True, min_crop=1.0), 0)[0]
        assert sample["composite"].shape == (3, 40, 40) and sample["mask"].unique().tolist() == [0, 1]
        assert sample["real"].min() >= -1 and sample["real"].max() <= 1
        difference = (sample["composite"] - sample["real"]).abs().amax(0, keepdim=True)
        inside, outside = difference[sample["mask"] == 1], difference[sample["mask"] == 0]
        assert inside.mean() > 10 * outside.mean()

    def test_unreadable_and_misfitting_images_are_named(self, root, tmp_path):
        import shutil

        broken = tmp_path / "broken"
        shutil.copytree(root, broken)
        victim = broken / "HCOCO" / "composite_images" / "a1_1_1.png"
        victim.write_bytes(victim.read_bytes()[:200])
        (broken / "one.txt").write_text("HCOCO/composite_images/a1_1_1.png\n")
        dataset = HarmonizationDataset(DataConfig(roots=(broken,), list_file="one.txt", size=32), 0)
        with pytest.raises(ValueError, match="a1_1_1.png must be a readable image"):
            dataset[0]
        Image.new("RGB", (9, 9)).save(victim)
        with pytest.raises(ValueError, match=r"one size, got \(9, 9\), \(48, 40\).*a1_1_1.png"):
            dataset[0]

    @settings(max_examples=60, deadline=None)
    @given(arrays(bool, st.tuples(st.integers(4, 40), st.integers(4, 40))), st.floats(0.2, 1), st.integers(0, 99))
    def test_crops_stay_inside_and_keep_foreground(self, foreground, min_crop, seed):
        height, width = foreground.shape
        left, top, right, bottom = draw_crop(foreground, min_crop, np.random.default_rng(seed))
        assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
        assert (right - left) / width == pytest.approx((bottom - top) / height)
        if foreground.any():
            rows, columns = np.nonzero(foreground)
            assert ((rows >= top - 1) & (rows <= bottom) & (columns >= left - 1) & (columns <= right)).any()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 3))
    def test_processes_and_parts_share_every_step(self, accumulation, processes, share, first_step):
        batch = accumulation * processes * share
        streams = [
            list(CounterBatches(batch_size=batch, steps=5, first_step=first_step, accumulation=accumulation, rank=rank, processes=processes))
            for rank in range(processes)
        ]
        assert all(len(stream) == (5 - first_step) * accumulation for stream in streams)
        for step in range(5 - first_step):
            counters = [c for stream in streams for part in stream[step * accumulation : (step + 1) * accumulation] for c in part]
            assert sorted(counters) == list(range((first_step + step) * batch, (first_step + step + 1) * batch))


class TestLosses:
    @settings(max_examples=30, deadline=None)
    @given(arrays(np.float32, (2, 1, 5, 4), elements=st.sampled_from([0.0, 1.0])), st.integers(0, 99))
    def test_foreground_weighting_as_spec_says(self, mask, seed):
        generator = torch.Generator().manual_seed(seed)
        prediction, target = (torch.randn(2, 4, 5, 4, generator=generator) for _ in range(2))
        found = diffusion_loss(prediction - target, torch.from_numpy(mask), foreground_weighted=True)
        values = []
        for b in range(2):
            pixels = mask[b].sum()
            factor = min(max(20 / pixels, 1), 5) if pixels else 5
            for c in range(4):
                error = (prediction[b, c] - target[b, c]).numpy() ** 2
                values.append((mask[b, 0] * error).mean() * factor)
        assert found.item() == pytest.approx(float(np.mean(values)), rel=1e-4, abs=1e-6)

    def test_switches(self):
        prediction, target, mask = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2, 2)
        assert diffusion_loss(prediction - target, mask, foreground_weighted=False).item() == 1
        assert diffusion_loss(prediction - target, mask, foreground_weighted=True, background_weight=0.1).item() == pytest.approx(0.5)

    def test_reconstruction(self):
        prediction, target, mask = torch.full((1, 3, 2, 2), 2.0), torch.zeros(1, 3, 2, 2), torch.tensor([[[[1.0, 0], [0, 0]]]])
        assert reconstruction_loss(prediction, target, mask, kind="squared").item() == 4
        assert reconstruction_loss(prediction, target, mask, kind="l1").item() == 2
        prediction[..., 1:] = 0
        prediction[..., 1, :] = 0
        weighted = reconstruction_loss(prediction, target, mask, kind="squared", foreground_weight=0.5)
        assert weighted.item() == pytest.approx(1 + 0.5 * 4)  # one pixel of four is foreground, and off by 2
        with pytest.raises(ValueError, match="loss must be one of squared, l1"):
            reconstruction_loss(prediction, target, mask, kind="huber")

    def test_timesteps(self):
        seeds = torch.arange(2000)
        everywhere, visited = draw_timesteps(seeds, 0.0), draw_timesteps(seeds, 1.0)
        assert set(visited.tolist()) == {999, 749, 500, 250, 0}
        assert everywhere.min() < 10 and everywhere.max() > 990 and len(set(everywhere.tolist())) > 500
        assert 0.4 < np.isin(draw_timesteps(seeds, 0.5), [999, 749, 500, 250, 0]).mean() < 0.6


@pytest.mark.parametrize("trainable", ["encoder_and_decoder", "conditional_encoder"])
def test_train_vae_lowers_the_loss_and_leaves_e_alone(root, base, tmp_path, trainable):
    config = vae_config(root, base, tmp_path / "run", trainable=trainable)
    result = vae.main(replace(config, optim=replace(config.optim, steps=40), run=replace(config.run, save_every=20, sample_every=40)))
    trained = load_harmony_vae(result["checkpoint"])
    plain = load_vae(base)
    for name, tensor in plain.encoder.state_dict().items():
        assert torch.equal(trained.encoder.state_dict()[name], tensor)
    same_decoder = all(torch.equal(trained.decoder.state_dict()[name], tensor) for name, tensor in plain.decoder.state_dict().items())
    assert same_decoder == (trainable == "conditional_encoder")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == result["steps"] == 40 and np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    training = read_checkpoint(Path(result["checkpoint"])).training
    assert training["command"] == "train-vae" and training["step"] == 40 and training["config"]["trainable"] == trainable
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"] == str(base)
    with Image.open(tmp_path / "run" / "samples" / "step-0000040.png") as sheet:
        assert sheet.size == (2 * 34 + 2, 5 * 34 + 2)  # two columns; composite, mask, plain, conditional, real
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert len(list((tmp_path / "run" / "state").iterdir())) == 2


@pytest.mark.parametrize("cached_views", [0, 2])
@pytest.mark.parametrize("direction", ["harmonize", "invert"])
def test_train_unet(root, base, tmp_path, cached_views, direction):
    config = unet_config(root, base, tmp_path / "run", cached_views=cached_views, direction=direction)
    trained = load_unet(unet.main(config)["checkpoint"])
    assert trained.direction == direction and trained.prediction_type == "v_prediction"
    assert trained.empty_prompt_embeds.shape == (1, 77, 32)
    assert len(list((tmp_path / "run").glob("latents-*.safetensors"))) == (1 if cached_views else 0)
    further = unet.main(unet_config(root, base, tmp_path / "more", init=tmp_path / "run" / "unet.safetensors", prediction_type=None))
    assert load_unet(further["checkpoint"]).prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="prediction_type must be init's own 'v_prediction', got 'epsilon'"):
        unet.main(unet_config(root, base, tmp_path / "no", init=tmp_path / "run" / "unet.safetensors", prediction_type="epsilon"))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_own_predictions(root, base, tmp_path, prediction_type):
    """A prediction that is exact stands for the clean latent, and training on own predictions changes what is learned."""
    config = unet_config(root, base, tmp_path / "own", prediction_type=prediction_type, own_predictions=1.0, sampled_timesteps=1.0)
    task = unet.UNetTask(unet.load_start(config), load_vae(base), config, {})
    clean, noise, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([999, 500, 0])
    noisy = task._scheduler.add_noise(clean, noise, timesteps)
    exact = task._scheduler.get_velocity(clean, noise, timesteps) if prediction_type == "v_prediction" else noise
    torch.testing.assert_close(task._clean(noisy, exact, timesteps), clean, atol=1e-3, rtol=1e-3)
    own = load_unet(unet.main(config)["checkpoint"])
    plain = load_unet(unet.main(replace(config, own_predictions=0.0, run=replace(config.run, out=tmp_path / "plain")))["checkpoint"])
    assert not torch.equal(own.conv_in.weight, plain.conv_in.weight)


def test_train_vae_on_the_unets_own_latents(root, base, tmp_path):
    trained = unet.main(unet_config(root, base, tmp_path / "unet"))["checkpoint"]
    config = vae_config(root, base, tmp_path / "run", unet=Path(trained), unet_share=1.0, latent_noise=0.5)
    result = vae.main(config)
    assert load_harmony_vae(result["checkpoint"]).direction == "harmonize"
    again = vae.main(replace(config, init=Path(result["checkpoint"]), run=replace(config.run, out=tmp_path / "further")))
    assert again["steps"] == 4


def test_train_autoencoder_whitens_without_changing_the_decode(root, tmp_path):
    dataset = HarmonizationDataset(DataConfig(roots=(root,), size=32), 0)
    images = torch.stack([dataset[counter]["real"] for counter in range(6)])
    plain = small_vae()
    with torch.no_grad():
        before = plain.decode(plain.encode(images).latent_dist.mode()).sample
        whiten_latents(plain, [images])
        latents = plain.encode(images).latent_dist.mode()
        torch.testing.assert_close(plain.decode(latents).sample, before, atol=1e-4, rtol=1e-3)
    values = 0.18215 * latents.permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.cov(values), torch.eye(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-3, rtol=0)
    config = autoencoder.AutoencoderTraining(
        data=DataConfig(roots=(root,), size=32, workers=0), optim=OptimConfig(batch_size=2, steps=2),
        run=RunConfig(out=tmp_path / "run", samples=2), block_out_channels=(32, 32),
    )  # fmt: skip
    trained = load_vae(autoencoder.main(config)["checkpoint"])
    assert type(trained) is AutoencoderKL and trained.config.norm_num_groups == 8


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"data": DataConfig()}, "data.roots must name at least one folder"),
            ({"optim": OptimConfig(batch_size=3, accumulation=2)}, "optim.accumulation must divide the batch size 3, got 2"),
            ({"init": None}, "init must be a VAE to begin from"),
            ({"optim": OptimConfig(epochs=0)}, r"optim.epochs must lie in \(0, 1e6\], got 0"),
            ({"run": RunConfig(samples=0)}, r"run.samples must lie in \[1, 64\], got 0"),
            ({"unet_share": 7}, r"unet_share must lie in \[0, 1\], got 7"),
        ],
    )
    def test_before_anything_is_written(self, root, base, tmp_path, changes, message):
        if "run" in changes:
            changes = {"run": replace(changes["run"], out=tmp_path / "run")}
        config = vae_config(root, base, tmp_path / "run", **changes)
        with pytest.raises(ValueError, match=message):
            vae.main(config)
        assert not (tmp_path / "run").exists()

    def test_a_loss_that_is_not_finite_names_the_images(self, root, base, tmp_path):
        broken = HarmonyVAE.from_autoencoder_kl(small_vae())
        with torch.no_grad():
            broken.decoder.conv_out.bias.fill_(3e38)
        save_harmony_vae(broken, tmp_path / "huge.safetensors", dtype=torch.float32)
        with pytest.raises(FloatingPointError, match=r"loss must be finite, got inf at step 1 for .*composite_images"):
            vae.main(vae_config(root, tmp_path / "huge.safetensors", tmp_path / "run"))

    def test_a_folder_that_holds_another_run(self, root, base, tmp_path):
        config = vae_config(root, base, tmp_path / "run")
        vae.main(config)
        saved = (tmp_path / "run" / "config.json").read_text()
        with pytest.raises(FileExistsError, match="run.out must hold no state"):
            vae.main(replace(config, run=replace(config.run, resume=False)))
        with pytest.raises(ValueError, match="optim.learning_rate must be 0.002 to go on with the run in .*, got 0.5"):
            vae.main(replace(config, optim=replace(config.optim, learning_rate=0.5)))
        assert (tmp_path / "run" / "config.json").read_text() == saved
        assert vae.main(replace(config, optim=replace(config.optim, steps=6)))["steps"] == 6

    def test_two_runs_in_one_folder(self, root, base, tmp_path):
        (tmp_path / "run").mkdir()
        with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RuntimeError, match="run.out must be used by one run at a time"):
            vae.main(vae_config(root, base, tmp_path / "run"))

    def test_half_precision_on_a_cpu(self, root, base, tmp_path):
        config = vae_config(root, base, tmp_path / "run")
        with pytest.raises(ValueError, match="run.mixed_precision must be no or bf16 on a CPU, got fp16"):
            vae.main(replace(config, run=replace(config.run, mixed_precision="fp16")))


def test_cached_latents_belong_to_their_vae_and_images(root, base, tmp_path):
    dataset = HarmonizationDataset(DataConfig(roots=(root,), size=32, workers=0), 0)
    plain = load_vae(base)
    arguments = dict(views=1, direction="harmonize", folder=tmp_path, seed=0, device=torch.device("cpu"))
    first = cache_latents(plain, dataset, **arguments)
    assert torch.equal(cache_latents(plain, dataset, **arguments).tensors["target_latent"], first.tensors["target_latent"])
    assert len(list(tmp_path.iterdir())) == 1
    whiten_latents(plain, [torch.rand(4, 3, 32, 32)])
    whitened = cache_latents(plain, dataset, **arguments)
    assert not torch.allclose(whitened.tensors["target_latent"], first.tensors["target_latent"], atol=1e-2)
    os.utime(dataset.pairs[0].composite, ns=(1, 1))
    cache_latents(plain, dataset, **arguments)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_log_of_a_run_killed_before_its_first_state_starts_anew(root, base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    vae.main(vae_config(root, base, tmp_path / "run"))
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_killed_run_goes_on_to_the_same_weights(root, base, tmp_path):
    """A real process, killed with SIGKILL between two states; the same command then ends where the other run ended."""
    arguments = [
        "train-vae", "tiny", "--init", base, "--data.roots", root, "--data.size", "32", "--optim.batch-size", "2",
        "--optim.steps", "12", "--run.save-every", "2", "--run.sample-every", "6", "--run.samples", "2",
    ]  # fmt: skip

    def start(out):
        command = [sys.executable, "-m", "diffharmony", *map(str, arguments), "--run.out", str(out), "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True, cwd=tmp_path)

    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "state").glob("step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list((tmp_path / "killed" / "state").glob("step-*.pt")) and not list((tmp_path / "killed" / "state").glob("*12.pt"))
    resumed = start(tmp_path / "killed")
    results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in (whole, resumed)]
    assert [result["steps"] for result in results] == [12, 12]
    tensors = [read_checkpoint(Path(result["checkpoint"])).tensors for result in results]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
