"""Training the refinement stage: where harmonized images come from, refusals, the command and what harmonize makes of its file."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.__main__ import main as run_command
from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.common.images import load_image, load_mask, tensor_to_pil
from diffharmony.diffusion import harmonize, load_unet
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.refinement import load_refinement
from diffharmony.tests.made.refinement import make_models
from diffharmony.train.checks import resolve_overrides
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.refinement import (
    HarmonizedDataset,
    RefinementArchitecture,
    RefinementTask,
    RefinementTraining,
    load_data,
    load_harmonizer,
    main,
    make_refinement,
)

HEIGHT, WIDTH = 40, 48
NAMES = ("a1_1_1", "a1_2_1", "größe 3_1_1", "größe 3_2_1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four composites in iHarmony4's layout, and in harmonized/ their negatives."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("composite_images", "masks", "real_images"):
        (root / "HCOCO" / folder).mkdir(parents=True)
    (root / "harmonized").mkdir()
    for name in NAMES:
        image, mask_number, _ = name.rsplit("_", 2)
        real_path = root / "HCOCO" / "real_images" / f"{image}.png"
        if not real_path.is_file():
            small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(real_path)
        real = np.asarray(Image.open(real_path))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[5 * int(mask_number) : 25, 8:30] = 255
        composite = np.where(mask[..., None] > 0, real // 2, real)
        Image.fromarray(mask).save(root / "HCOCO" / "masks" / f"{image}_{mask_number}.png")
        Image.fromarray(composite).save(root / "HCOCO" / "composite_images" / f"{name}.png")
        Image.fromarray(255 - composite).save(root / "harmonized" / f"{name}.png")
    (root / "IHD_train.txt").write_text("".join(f"HCOCO/composite_images/{name}.png\n" for name in NAMES), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """vae.safetensors, unet.safetensors and inverse_unet.safetensors, with made-up weights."""
    return make_models(tmp_path_factory.mktemp("models"))


def config_of(root, out, **changes):
    """Four steps at 32 px, from the folder of harmonized images unless `changes` say otherwise."""
    config = RefinementTraining(
        harmonized=root / "harmonized",
        data=DataConfig(roots=(root,), size=32, min_crop=0.6, workers=0),
        optim=OptimConfig(learning_rate=2e-3, batch_size=2, steps=4, ema_decay=0.5),
        run=RunConfig(out=out, save_every=2, sample_every=4, samples=2, tracker="none"),
        architecture=RefinementArchitecture(sample_size=32, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
    )
    return replace(config, **changes)


def from_models(root, models, out, **changes):
    given = {"harmonized": None, "harmony_vae": str(models / "vae.safetensors"), "unet": str(models / "unet.safetensors")}
    return config_of(root, out, **{**given, **changes})


class TestHarmonizedImages:
    def test_those_of_a_folder_are_cut_as_their_composites_are(self, root):
        dataset = HarmonizedDataset(DataConfig(roots=(root,), size=32, min_crop=0.5, workers=0), 3, root / "harmonized", batch_size=4)
        batch = dataset.examples(24)
        composite, harmonized = batch["composite"].split(3, dim=1)
        assert harmonized.shape == (24, 3, 32, 32) and composite.std() > 0.3
        # a negative of the composite stays one under every cut, and under no other cut
        torch.testing.assert_close(harmonized, -composite, rtol=0, atol=2.5 / 127.5)
        assert (harmonized + composite.flip(-1)).abs().mean() > 0.1
        plain = super(HarmonizedDataset, dataset).__getitem__  # the others' order and cuts are those of the data set without
        assert torch.equal(plain(5)["mask"], dataset[5]["mask"]) and torch.equal(dataset[5]["composite"], batch["composite"][5])

    def test_a_folder_that_evaluate_takes_is_taken(self, root, tmp_path):
        """By subset, and under every suffix that images have."""
        for name, place in zip(NAMES, ("HCOCO/a.webp", "HCOCO/composite_images/a.TIF", "a.bmp", "HCOCO/a.jpeg")):
            path = (tmp_path / place).with_stem(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(root / "harmonized" / f"{name}.png").save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
        data = DataConfig(roots=(root,), size=32, workers=0)
        found, expected = (HarmonizedDataset(data, 0, folder).examples(4) for folder in (tmp_path, root / "harmonized"))
        torch.testing.assert_close(found["composite"], expected["composite"], rtol=0, atol=0.3)

    def test_one_image_for_two_composites_is_refused(self, root, tmp_path):
        """As where two synthetic roots use the same names."""
        shutil.copytree(root / "HCOCO", tmp_path / "other" / "HCOCO")
        shutil.copy(root / "IHD_train.txt", tmp_path / "other")
        shutil.copy(root / "IHD_train.txt", tmp_path / "other" / "validated.txt")
        config, roots = config_of(root, tmp_path / "run", dry_run=True), (root, tmp_path / "other")
        message = "must hold one prediction per composite, got a1_1_1.png for 2 .* Where data.roots have subsets of one name, rename"
        with pytest.raises(ValueError, match=message):
            main(replace(config, data=replace(config.data, roots=roots)))
        (tmp_path / "other" / "IHD_train.txt").write_text("HCOCO/composite_images/a1_2_1.png\n")
        (tmp_path / "other" / "validated.txt").write_text("HCOCO/composite_images/a1_1_1.png\n")
        (root / "few.txt").write_text("HCOCO/composite_images/a1_1_1.png\n")
        with pytest.raises(ValueError, match=message):  # one is trained on, the other validated on
            data = replace(config.data, roots=roots, list_files=("few.txt", "IHD_train.txt"))
            main(replace(config, data=data, run=replace(config.run, validation_list="validated.txt")))
        assert not (tmp_path / "run").exists()

    def test_those_of_models_are_harmonizes_own_of_each_samples_seed(self, root, models, tmp_path):
        config = from_models(root, models, tmp_path)
        dataset, _ = load_data(config)
        batch, seen = dataset.examples(3), []
        task = RefinementTask(make_refinement(config.architecture, 0), config, dataset.examples(2), *load_harmonizer(config))
        task.model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        loss = task(batch)
        vae, unet = load_harmony_vae(models / "vae.safetensors"), load_unet(models / "unet.safetensors")
        for index in range(3):
            composite, mask = batch["composite"][index : index + 1], batch["mask"][index : index + 1]
            harmonized = harmonize(vae, unet, composite, mask, seed=int(batch["seed"][index]), detail="decoded", paste_background=False)
            expected = torch.cat([harmonized, mask, composite], dim=1)
            torch.testing.assert_close(seen[0][index : index + 1], expected, rtol=0, atol=1e-4)
        loss.backward()
        assert all(parameter.grad is None for model in task.frozen() for parameter in model.parameters())
        assert len(task.frozen()) == 2 and set(task.trainable()) == set(task.model.parameters())

    def test_an_identity_start_changes_nothing(self, root, tmp_path):
        config = config_of(root, tmp_path, architecture=replace(config_of(root, tmp_path).architecture, identity_start=True))
        dataset, _ = load_data(config)
        batch = dataset.examples(4)
        task = RefinementTask(make_refinement(config.architecture, 0), config, dataset.examples(2))
        expected = torch.nn.functional.mse_loss(batch["composite"][:, 3:], batch["real"])
        torch.testing.assert_close(task(batch), expected)
        measured = task.measure(batch)
        assert torch.equal(measured["psnr"], measured["psnr_harmonized"]) and measured["psnr"].shape == (4,)

    def test_larger_images_are_brought_to_the_stages_size(self, root, models, tmp_path):
        config = from_models(root, models, tmp_path, data=DataConfig(roots=(root,), size=64, workers=0))
        dataset, _ = load_data(config)
        task = RefinementTask(make_refinement(config.architecture, 0), config, dataset.examples(2), *load_harmonizer(config))
        sizes = []
        task.model.register_forward_pre_hook(lambda module, arguments: sizes.append(tuple(arguments[0].shape)))
        task(dataset.examples(2))
        assert sizes == [(2, 7, 32, 32)]
        assert task.sheet().shape == (3, 5 * 34 + 2, 2 * 34 + 2)


class TestTraining:
    def test_it_mends_what_is_always_wrong_alike(self, root, tmp_path):
        """Negatives of the composites: a change that a few steps learn."""
        architecture = RefinementArchitecture(
            sample_size=32, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4, identity_start=True
        )
        config = config_of(
            root, tmp_path, architecture=architecture,
            optim=OptimConfig(learning_rate=1e-2, batch_size=4, steps=60, ema_decay=0.9, warmup=0.0),
            run=RunConfig(out=tmp_path, save_every=60, sample_every=60, samples=2, tracker="none", validation_list="IHD_train.txt",
                          validate_every=60, validation_images=4),
        )  # fmt: skip
        result = main(config)
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert np.mean(losses[-5:]) < 0.15 * losses[0]
        assert lines[-1]["validation_psnr"] > lines[-1]["validation_psnr_harmonized"] + 5
        assert Image.open(tmp_path / "samples" / "step-0000060.png").size == (2 * 34 + 2, 5 * 34 + 2)
        checkpoint = read_checkpoint(result["checkpoint"])
        assert checkpoint.kind == "refinement" and checkpoint.training["command"] == "train-refinement"

    def test_it_goes_on_to_the_same_weights(self, root, models, tmp_path):
        whole, cut = (from_models(root, models, tmp_path / name) for name in ("whole", "cut"))
        expected = load_refinement(main(whole)["checkpoint"])
        main(replace(cut, optim=replace(cut.optim, steps=2)))
        found = load_refinement(main(cut)["checkpoint"])
        assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True))

    def test_a_trained_model_is_trained_further(self, root, tmp_path):
        first = main(config_of(root, tmp_path / "first"))["checkpoint"]
        optim = OptimConfig(learning_rate=1e-12, batch_size=2, steps=1)
        second = main(config_of(root, tmp_path / "second", init=first, optim=optim))["checkpoint"]
        torch.testing.assert_close(load_refinement(second).state_dict(), load_refinement(first).state_dict(), rtol=0, atol=1e-6)

    def test_bad_harmonized_images_are_skipped_when_asked(self, root, tmp_path):
        folder = tmp_path / "harmonized"
        folder.mkdir()
        for name in NAMES[:2]:
            Image.open(root / "harmonized" / f"{name}.png").save(folder / f"{name}.png")
        (folder / f"{NAMES[2]}.png").write_bytes(b"no picture")
        data = DataConfig(roots=(root,), size=32, workers=0, on_bad_image="skip")
        result = main(config_of(root, tmp_path / "run", harmonized=folder, data=data))
        assert sorted(os.path.basename(path) for path in result["skipped"]) == sorted(f"{name}.png" for name in NAMES[2:])


def test_a_dry_run_plans_and_writes_nothing(root, models, tmp_path, capsys):
    plan = main(from_models(root, models, tmp_path / "run", dry_run=True))
    model = make_refinement(config_of(root, tmp_path).architecture, 0)
    assert plan["trainable_parameters"] == sum(parameter.numel() for parameter in model.parameters()) < plan["all_parameters"]
    assert "trainable of" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, argument, message",
        [
            ({}, "--sampling-steps", "sampling_steps must go with unet, which is None"),
            ({"init": "a"}, "--architecture.sample-size", "architecture must not go with init"),
        ],
    )
    def test_options_that_do_nothing(self, root, tmp_path, changes, argument, message):
        with pytest.raises(ValueError, match=message):
            resolve_overrides(config_of(root, tmp_path, **changes), [argument, "8"])

    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(harmonized=None), "must come from harmony_vae and unet, or from the folder harmonized, got none of the three"),
            (dict(harmonized=None, unet="u"), "got only unet. Pass --harmony-vae FILE --unet FILE"),
            (dict(unet="u"), "harmonized must be left out where unet are given"),
            (dict(sampling_steps=0), r"sampling_steps must lie in \[1, 1000\], got 0"),
        ],
    )
    def test_where_harmonized_images_come_from(self, root, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            main(config_of(root, tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()

    def test_models_that_do_not_fit(self, root, models, tmp_path):
        with pytest.raises(ValueError, match="unet must be of direction 'harmonize', got 'invert'"):
            main(from_models(root, models, tmp_path, unet=str(models / "inverse_unet.safetensors")))
        with pytest.raises(ValueError, match="must be a refinement model .* got a Harmony-VAE"):
            main(from_models(root, models, tmp_path, init=models / "vae.safetensors"))
        deep = RefinementArchitecture(sample_size=36, block_out_channels=(8, 8, 8, 8), norm_num_groups=4)
        with pytest.raises(ValueError, match="sample_size must be a multiple of 8 for 4 levels, got 36"):
            main(config_of(root, tmp_path, architecture=deep))
        with pytest.raises(ValueError, match="architecture.identity_start must be off without architecture.input_residual"):
            main(config_of(root, tmp_path, architecture=RefinementArchitecture(input_residual=False, identity_start=True)))

    def test_folders_that_do_not_fit(self, root, tmp_path):
        with pytest.raises(FileNotFoundError, match="harmonized folder 'none' must exist, looked in"):
            main(config_of(root, tmp_path / "run", harmonized=tmp_path / "none"))
        (tmp_path / "some").mkdir()
        with pytest.raises(FileNotFoundError, match="got 4 missing in .*some, the first: that of a1_1_1.png. Harmonize the whole list"):
            main(config_of(root, tmp_path / "run", harmonized=tmp_path / "some"))
        for name in NAMES:
            Image.new("RGB", (32, 32)).save(tmp_path / "some" / f"{name}.png")
        with pytest.raises(ValueError, match="must have one size"):
            main(config_of(root, tmp_path / "run", harmonized=tmp_path / "some"))


def test_the_command_trains_what_harmonize_then_uses(root, models, tmp_path, runs, capsys):
    options = {
        "harmony-vae": models / "vae.safetensors", "unet": models / "unet.safetensors", "data.roots": root, "data.size": 32,
        "run.out": tmp_path / "run",
        "architecture.sample-size": 32, "architecture.block-out-channels": "8 8", "architecture.norm-num-groups": 4, "optim.steps": 3,
        "optim.batch-size": 2, "optim.learning-rate": 0.02, "run.samples": 2, "optim.ema-decay": 0.0, "run.tracker": "none",
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", *str(value).split(" "))]
    result = runs.start("train-refinement", "tiny", *arguments, "--json").result()
    assert result["steps"] == 3 and (tmp_path / "run" / "config.json").is_file()
    model = load_refinement(result["checkpoint"])

    subset = root / "HCOCO"
    files = [str(subset / "composite_images" / "a1_1_1.png"), str(subset / "masks" / "a1_1.png")]
    found = {}
    for name, options in {"without": [], "with": ["--refinement", result["checkpoint"]]}.items():
        out = tmp_path / f"{name}.png"
        pair = ["--vae", str(models / "vae.safetensors"), "--unet", str(models / "unet.safetensors"), "--device", "cpu"]
        assert run_command(["harmonize", *files, "--out", str(out), *pair, *options, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert printed["refinement"] == (options[1] if options else None)
        found[name] = np.asarray(Image.open(out)).astype(int)
    vae, unet = load_harmony_vae(models / "vae.safetensors"), load_unet(models / "unet.safetensors")
    expected = tensor_to_pil(harmonize(vae, unet, load_image(files[0]), load_mask(files[1]), refinement=model))[0]
    assert np.abs(found["with"] - np.asarray(expected).astype(int)).max() <= 1
    assert np.abs(found["with"] - found["without"]).max() > 2
    # not something that only looks like a refinement model
    assert run_command(["harmonize", *files, "--out", str(tmp_path / "no.png"), *pair, "--refinement", pair[1]]) == 1
    assert "must be a refinement model" in capsys.readouterr().err and not (tmp_path / "no.png").exists()
