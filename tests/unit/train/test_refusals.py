"""What a run refuses, and what it says before it begins."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.tests.made.training import small_vae, unet_config, vae_command, vae_config
from diffharmony.train import autoencoder, classifier, refinement, unet, vae
from diffharmony.train.checks import check, resolve_overrides
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.dry_run import size_of


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
            ({"optim": OptimConfig(betas=(0.9, 1.5))}, r"optim.betas must lie in \[0, 1\), got 1.5"),
            ({"optim": OptimConfig(betas=(float("nan"), 0.999))}, r"optim.betas must lie in \[0, 1\), got nan"),
        ],
    )
    def test_before_anything_is_written(self, root, base, tmp_path, changes, message):
        if "run" in changes:
            changes = {"run": replace(changes["run"], out=tmp_path / "run")}
        config = vae_config(root, base, tmp_path / "run", **changes)
        with pytest.raises(ValueError, match=message):
            vae.main(config)
        assert not (tmp_path / "run").exists()

    def test_one_folder_twice(self, root, base, tmp_path, monkeypatch):
        monkeypatch.chdir(root.parent)
        twice = DataConfig(roots=(root, Path(root.name)), size=32, workers=0)
        config = vae_config(root, base, tmp_path / "run", data=twice)
        message = f"data.roots must not name one folder twice with one list, got {root.name} again, IHD_train.txt. Leave it out"
        for dry_run in (True, False):
            with pytest.raises(ValueError, match=message):
                vae.main(replace(config, dry_run=dry_run))
        with pytest.raises(ValueError, match="IHD_train.txt"):
            check(replace(config, data=replace(twice, list_files=("IHD_train.txt", "./IHD_train.txt"))))
        check(replace(config, data=replace(twice, list_files=("IHD_train.txt", "train.jsonl"))))  # which weights mix
        # a run that was begun so, when it was not refused, goes on
        (tmp_path / "run" / "state").mkdir(parents=True)
        (tmp_path / "run" / "state" / "step-00000002.pt").touch()
        check(config)

    def test_a_dry_run_reads_every_mask(self, root, base, tmp_path, caplog):
        data = tmp_path / "data"
        shutil.copytree(root, data)
        config = vae_config(data, base, tmp_path / "run", dry_run=True)
        masks = sorted(data.glob("*/masks/*.png"))
        Image.open(masks[0]).point(lambda value: value * 0.7).save(masks[0])
        vae.main(config)
        assert f"1 mask well under white, the first: {masks[0]} is nowhere brighter than 178 of 255" in caplog.text
        Image.open(masks[-1]).point(lambda value: value // 255).save(masks[-1])
        with pytest.raises(ValueError, match=f"every mask must be usable, got 1 of {len(masks)} that are not. {masks[-1]} must have foreground"):
            vae.main(config)
        skipping = vae.main(replace(config, data=replace(config.data, on_bad_image="skip")))
        assert skipping["images"] < len(masks)

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
        with pytest.raises(ValueError, match="optim.learning_rate must be 0.002 to go on in .*, got 0.5"):
            vae.main(replace(config, optim=replace(config.optim, learning_rate=0.5)))
        assert (tmp_path / "run" / "config.json").read_text() == saved
        assert vae.main(replace(config, optim=replace(config.optim, steps=6)))["steps"] == 6

    def test_two_runs_in_one_folder(self, root, base, tmp_path):
        (tmp_path / "run").mkdir()
        with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RuntimeError, match="run.out must be used by one run at a time"):
            vae.main(vae_config(root, base, tmp_path / "run"))


class TestOptions:
    """Options of the command line beside what a preset says."""

    def settled(self, preset, *arguments, **changes):
        return resolve_overrides(replace(preset, **changes), list(arguments))

    def test_how_long_is_said_once(self):
        tiny, paper = vae.PRESETS["tiny"][1], vae.PRESETS["paper"][1]
        with pytest.raises(ValueError, match="optim.steps and optim.epochs must not both be given"):
            self.settled(tiny, "--optim.steps", "5", "--optim.epochs=2")
        assert self.settled(tiny, "--optim.epochs", "3").optim.steps is None
        assert self.settled(tiny).optim.steps == 2500
        assert self.settled(paper, "--optim.steps", "7", optim=replace(paper.optim, steps=7)).optim.steps == 7

    @pytest.mark.parametrize(
        "preset, arguments, changes, message",
        [
            (vae, ["--unet-share", "0.3"], {}, "unet_share must go with unet, which is None"),
            (vae, ["--run.validate-every=9"], {}, "run.validate_every must go with run.validation_list"),
            (unet, ["--background-weight", "0.3"], {"foreground_weighted": False}, "background_weight must go with foreground_weighted"),
            (unet, ["--architecture.layers-per-block", "2"], {"init": "unet"}, "architecture must not go with init"),
            (autoencoder, ["--norm-num-groups", "4"], {"init": "vae"}, "norm_num_groups must not go with init"),
            *(
                (trainer, ["--data.list-file", "a.txt"], {"data": DataConfig(list_files=("b.txt",))}, "data.list_file must not go with")
                for trainer in (autoencoder, vae, unet, refinement, classifier)
            ),
        ],
    )
    def test_options_that_would_do_nothing(self, preset, arguments, changes, message):
        config = preset.PRESETS["tiny"][1]
        with pytest.raises(ValueError, match=message):
            self.settled(config, *arguments, **changes)
        self.settled(config, **changes)

    def test_the_command_line_asks(self, root, base, tmp_path, capsys):
        command = vae_command(root, base, tmp_path / "run")
        assert main([*command, "--optim.epochs", "2"]) == 1
        assert "must not both be given" in capsys.readouterr().err
        if find_spec("wandb") is None:
            assert main([*command, "--run.tracker", "wandb"]) == 1
            assert "run.tracker must be one that is installed, or none, got 'wandb'" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*command, "--optim.momentum", "2"])
        assert not (tmp_path / "run").exists()


def test_presets_are_the_papers():
    """SPEC §3's recipe, and §2's for the UNet."""
    for trainer in (vae, unet):
        config = trainer.PRESETS["paper"][1]
        optim = config.optim
        assert (optim.schedule, optim.warmup, optim.weight_decay, optim.betas) == ("constant_with_warmup", 0.02, 0.0, (0.9, 0.999))
        assert (optim.ema_decay, optim.epochs, optim.steps, config.direction) == (0.999, 10, None, "harmonize")
        assert config.data.min_crop == 1.0 and config.data.list_file == "IHD_train.txt"
    harmony_vae, denoiser = vae.PRESETS["paper"][1], unet.PRESETS["paper"][1]
    assert (harmony_vae.data.size, harmony_vae.optim.learning_rate, harmony_vae.loss) == (256, 1e-4, "squared")
    assert (harmony_vae.trainable, harmony_vae.latent_noise, harmony_vae.foreground_weight) == ("encoder_and_decoder", 0.0, 0.0)
    assert (denoiser.data.size, denoiser.prediction_type, denoiser.foreground_weighted) == (512, None, True)
    assert (denoiser.sampled_timesteps, denoiser.own_predictions, denoiser.background_weight) == (0.0, 0.0, 0.0)


class TestDryRun:
    def test_plan(self, root, base, tmp_path, capsys):
        command = vae_command(root, base, tmp_path / "run", optim__accumulation=2, run__validation_list="IHD_train.txt")
        assert main([*command, "--dry-run"]) == 0
        printed = capsys.readouterr().out
        plan = json.loads(printed.splitlines()[-1])
        assert not (tmp_path / "run").exists()
        assert (plan["steps"], plan["epochs"], plan["images"], plan["validation_images"]) == (6, 4, 6, 6)
        trained = HarmonyVAE.from_autoencoder_kl(small_vae())
        parameters = sum(p.numel() for p in trained.set_trainable())
        assert plan["trainable_parameters"] == parameters and f"{parameters:,} trainable" in printed
        memory = plan["bytes_per_process"]
        assert (memory["gradients"], memory["adam"], memory["ema"]) == (4 * parameters, 8 * parameters, 4 * parameters)
        assert memory["weights"] >= size_of(trained.parameters()) and memory["together"] == sum(memory.values()) - memory["together"]
        assert "1 process x 2 parts x 2 images" in printed

    def test_refuses_what_a_run_would(self, root, base, tmp_path):
        with pytest.raises(FileNotFoundError, match="list file 'none.txt' must exist"):
            vae.main(vae_config(root, base, tmp_path / "run", dry_run=True, data=DataConfig(roots=(root,), list_file="none.txt", size=32)))
        assert not (tmp_path / "run").exists()

    def test_refuses_several_sizes_of_cached_latents(self, root, base, tmp_path):
        config = unet_config(root, base, tmp_path / "run", cached_views=1)
        message = r"data.sizes must be left out where latents are cached \(cached_views 1; 0 caches none\), got \(64, 128\)"
        for dry_run in (True, False):
            with pytest.raises(ValueError, match=message):
                unet.main(replace(config, dry_run=dry_run, data=replace(config.data, sizes=(64, 128))))
        assert not (tmp_path / "run").exists()

    def test_refuses_a_folder_that_the_run_would(self, root, base, tmp_path):
        config = vae_config(root, base, tmp_path / "run")
        vae.main(config)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for changes, error, message in (
            ({"loss": "l1"}, ValueError, "loss must be 'squared' to go on in .*, got 'l1'"),
            ({"optim": replace(config.optim, steps=2)}, ValueError, "optim.steps must be at least the 4 that the run in .* has taken, got 2"),
            ({"run": replace(config.run, resume=False)}, FileExistsError, "run.out must hold no state when run.resume is off"),
        ):
            with pytest.raises(error, match=message):
                vae.main(replace(config, dry_run=True, **changes))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert vae.main(replace(config, dry_run=True))["goes_on_from"].endswith("step-00000004.pt")

    def test_of_a_unet_says_where_it_goes_on(self, root, base, tmp_path):
        config = unet_config(root, base, tmp_path / "run", cached_views=2)
        unet.main(config)
        before = sorted(tmp_path.rglob("*"))
        plan = unet.main(replace(config, dry_run=True))
        assert plan["goes_on_from"].endswith("step-00000004.pt") and plan["all_parameters"] > plan["trainable_parameters"]
        assert sorted(tmp_path.rglob("*")) == before
