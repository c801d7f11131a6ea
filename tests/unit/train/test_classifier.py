"""Training the harmony classifier: the split, equal treatment of a pair, cached features, resumed runs, the report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torchvision import models

from diffharmony.__main__ import main as run_command
from diffharmony.applications.tiny.classifier_report import ClassifierReport, make_report, report_text
from diffharmony.applications.tiny.planted import STRONG_FMSE, plant
from diffharmony.classifier.checkpoint import load_harmony_classifier
from diffharmony.classifier.model import HarmonyClassifier
from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.dataset.pairs import Pair, read_list
from diffharmony.train.classifier import (
    ClassifierArchitecture,
    ClassifierTask,
    ClassifierTraining,
    load_data,
    load_pretrained_classifier,
    main,
)  # fmt: skip
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.data.classifier_pairs import (
    ClassifierPairs,
    augment_jointly,
    cache_features,
    check_apart,
    photographs_of,
    split_photographs,
)  # fmt: skip
from diffharmony.train.data.crops import Crop

SIDE, PHOTOGRAPHS = 48, 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Smooth pictures, two composites of each, whose foreground is of strongly other colour; test.txt lists other photographs."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    names = []
    for folder in ("composite_images", "masks", "real_images"):
        (root / "HCOCO" / folder).mkdir(parents=True)
    for number in range(PHOTOGRAPHS + 20):
        small = rng.integers(70, 190) + rng.integers(-30, 30, (3, 3, 3))
        real = np.asarray(Image.fromarray(small.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        Image.fromarray(real).save(root / "HCOCO" / "real_images" / f"p{number}.png")
        for m in (1, 2):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            top, left = rng.integers(4, 20, 2)
            mask[top : top + rng.integers(12, 22), left : left + rng.integers(12, 22)] = 255
            shift = np.where(rng.random(3) < 0.5, -1, 1) * rng.integers(40, 70, 3)
            composite = np.where(mask[..., None] > 0, (real + shift).clip(0, 255), real).astype(np.uint8)
            Image.fromarray(mask).save(root / "HCOCO" / "masks" / f"p{number}_{m}.png")
            Image.fromarray(composite).save(root / "HCOCO" / "composite_images" / f"p{number}_{m}_1.png")
            names.append(f"HCOCO/composite_images/p{number}_{m}_1.png\n")
    (root / "IHD_train.txt").write_text("".join(names[: 2 * PHOTOGRAPHS]))
    (root / "test.txt").write_text("".join(names[2 * PHOTOGRAPHS :]))
    (root / "leaking.txt").write_text("".join(names[2 * PHOTOGRAPHS - 1 :]))
    return root


def config_of(root, out, **changes):
    config = ClassifierTraining(
        data=DataConfig(roots=(root,), size=SIDE, flip=True, workers=0),
        optim=OptimConfig(learning_rate=3e-3, schedule="cosine", batch_size=8, steps=4, ema_decay=0.9),
        run=RunConfig(out=out, save_every=100, sample_every=100, validate_every=100, samples=2, tracker="none"),
        architecture=ClassifierArchitecture("small", 32, crop=True, mask_channel=True, widths=(8, 16)),
        alike=True,
        held_out=0.25,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A short run on strong changes, with its report and the config."""
    config = config_of(pictures, tmp_path_factory.mktemp("trained"), ranking=0.5)
    config = replace(config, optim=replace(config.optim, steps=150))
    return main(config), config


def with_resnet(config, **changes):
    return replace(config, architecture=ClassifierArchitecture(input_size=32), backbone_weights="random", alike=False, **changes)


def pair(subset, image, k, root="a"):
    folder = Path(root) / subset
    return Pair(folder / f"{image}_1_{k}.jpg", folder / f"{image}_1.png", folder / "real_images" / f"{image}.jpg", subset)


class TestSplit:
    pairs = st.lists(
        st.builds(
            pair, st.sampled_from(("HCOCO", "HFlickr")), st.integers(0, 30).map("a{}".format), st.integers(1, 4), st.sampled_from("ab")
        ),
        min_size=1, max_size=60,
    )  # fmt: skip

    @settings(max_examples=200, deadline=None)
    @given(pairs, st.floats(0.05, 0.9), st.integers(0, 5))
    def test_a_photograph_and_all_its_composites_are_on_one_side(self, pairs, share, seed):
        try:
            trained, held_out = split_photographs(pairs, share, seed)
        except ValueError as error:
            assert "held_out must leave photographs on both sides" in str(error)
            return
        assert sorted(trained + held_out) == list(range(len(pairs))) and trained and held_out
        check_apart([pairs[index] for index in trained], [pairs[index] for index in held_out])
        # more pairs move none
        again = split_photographs([*pairs, pair("HCOCO", "new", 1)], share, seed)
        assert [index for index in again[1] if index < len(pairs)] == held_out

    def test_its_share_and_its_seed(self):
        pairs = [pair("HCOCO", f"a{number}", k) for number in range(1000) for k in (1, 2)]
        sides = [split_photographs(pairs, 0.1, seed)[1] for seed in (0, 1)]
        assert 150 < len(sides[0]) < 250 and sides[0] != sides[1]
        assert split_photographs(pairs, 0, 0) == (list(range(2000)), [])

    def test_one_subsets_names_are_not_anothers(self):
        check_apart([pair("HCOCO", "a1", 1)], [pair("HFlickr", "a1", 1)])
        with pytest.raises(ValueError, match="no photograph must be both trained on and held out, got 1 that are: HCOCO/a1. Take"):
            check_apart([pair("HCOCO", "a1", 1)], [pair("HCOCO", "a1", 2, "b")])

    def test_copies_of_a_photograph_are_one_whatever_their_names(self, tmp_path):
        """As in a flat data set and what was grown from it, or where one photograph was saved twice."""
        pairs = [pair("flat", "cat", 1, tmp_path / "a"), pair("more", "pair-2", 1, tmp_path / "b"), pair("more", "dog", 1, tmp_path / "b")]
        for one, content in zip(pairs, (b"cat" * 9000, b"cat" * 9000, b"dog" * 9000)):
            one.real.parent.mkdir(parents=True, exist_ok=True)
            one.real.write_bytes(content)
        assert photographs_of(pairs) == [("flat", "cat"), ("flat", "cat"), ("more", "dog")]
        with pytest.raises(ValueError, match="got 1 that are: flat/cat"):
            check_apart(pairs[:1], pairs[1:])

    def test_what_is_trained_on_and_held_out(self, pictures, tmp_path):
        trained, held_out = load_data(config_of(pictures, tmp_path, held_out=0.3))
        assert len(trained) + len(held_out) == 2 * PHOTOGRAPHS and len(trained) == sum(trained.lengths)
        check_apart(trained.pairs, held_out.pairs)
        names = {sample["name"] for sample in (trained[counter] for counter in range(len(trained)))}
        assert names == {str(one.composite) for one in trained.pairs}  # an epoch
        assert trained.alike and not held_out.alike and not held_out.config.flip

    def test_a_list_of_ones_own_must_not_leak(self, pictures, tmp_path):
        config = config_of(pictures, tmp_path)
        trained, held_out = load_data(replace(config, run=replace(config.run, validation_list="test.txt")))
        assert (len(trained), len(held_out)) == (2 * PHOTOGRAPHS, 40)
        with pytest.raises(ValueError, match=f"no photograph must be both trained on and held out.*HCOCO/p{PHOTOGRAPHS - 1}"):
            load_data(replace(config, run=replace(config.run, validation_list="leaking.txt")))


class TestEqualTreatment:
    def test_both_of_a_pair_change_alike_and_anew_each_time(self, pictures):
        dataset = ClassifierPairs(DataConfig(roots=(pictures,), size=SIDE, workers=0), 0, alike=True)
        plain = ClassifierPairs(DataConfig(roots=(pictures,), size=SIDE, workers=0), 0)
        differences = []
        for counter in range(12):
            sample, untreated = dataset[counter], plain[counter]
            assert torch.equal(sample["mask"], untreated["mask"]) and sample["name"] == untreated["name"]
            assert not torch.equal(sample["real"], untreated["real"])
            # JPEG's blocks, doubled in colour, and the resize reach this far over the mask's border
            far = torch.nn.functional.max_pool2d(sample["mask"][None], 41, stride=1, padding=20)[0] == 0
            if far.any():
                assert torch.equal(sample["composite"][far.expand(3, -1, -1)], sample["real"][far.expand(3, -1, -1)])
            differences.append((sample["real"] - untreated["real"]).mean().item())
            inside = sample["mask"].expand(3, -1, -1) > 0
            assert (sample["composite"] - sample["real"])[inside].abs().mean() > 0.15  # the light stays
        assert len({round(value, 3) for value in differences}) > 6 and torch.equal(dataset[5]["real"], dataset[5]["real"])

    def test_a_pair_without_a_change_stays_without(self):
        image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
        cut = Crop(image, image, torch.ones(1, SIDE, SIDE, dtype=torch.uint8), 0, "name")
        for seed in range(8):
            treated = augment_jointly(cut, np.random.default_rng(seed))
            assert torch.equal(treated.composite, treated.real) and not torch.equal(treated.real, image)


class TestTraining:
    def test_strong_changes_are_learnt(self, trained):
        result, config = trained
        report = result["report"]
        assert report["auc"] > 0.9 and report["ordered"] > 0.9 and report["accuracy"] > 0.75
        assert report == json.loads((config.run.out / "report.json").read_text())
        assert 0 < report["photographs"] < PHOTOGRAPHS and report["pairs"] == 2 * report["photographs"]
        assert Image.open(config.run.out / "calibration.png").size[0] > 1000
        assert (config.run.out / "samples" / "step-0000150.png").is_file()
        rows = [json.loads(line) for line in (config.run.out / "log.jsonl").read_text().splitlines()]
        assert {"validation_accuracy", "validation_ordered"} <= rows[-1].keys()

    def test_its_checkpoint_says_what_it_is(self, trained):
        result, config = trained
        checkpoint = read_checkpoint(result["checkpoint"])
        assert (checkpoint.kind, checkpoint.training["command"], checkpoint.training["step"]) == ("classifier", "train-classifier", 150)
        assert load_harmony_classifier(result["checkpoint"]).config == HarmonyClassifier(**vars(config.architecture)).config

    def test_the_report_command_on_photographs_of_their_own(self, trained, pictures, tmp_path):
        result, _ = trained
        config = ClassifierReport(pictures, Path(result["checkpoint"]), list="test.txt", planted=6, out=tmp_path / "report")
        report = make_report(config)
        assert report["pairs"] == 40 and report["auc"] > 0.9 and sum(row["count"] for row in report["by_fmse"].values()) == 40
        assert report["planted"]["images"] == 6 and 1 <= report["planted"]["mean_rank"] <= 10
        assert report == json.loads((tmp_path / "report" / "report.json").read_text()) == make_report(config)
        assert "planted candidates found" in report_text(report)

    def test_a_planted_one_is_changed_inside_its_mask_and_the_others_are_not(self, pictures):
        listed = read_list(pictures, "test.txt")
        found = [plant(one, 0, number) for number, one in enumerate(listed)]
        for one, planted in [(one, planted) for one, planted in zip(listed, found) if planted is not None][:8]:
            real, inside = np.asarray(Image.open(one.real)).astype(float), planted.mask >= 128
            errors = ((planted.images - real) ** 2)[:, inside].mean(axis=(1, 2))
            assert planted.images.shape == (10, SIDE, SIDE, 3) and errors.argmax() == planted.place
            assert planted.fmse >= STRONG_FMSE and errors[planted.place] > 0.8 * STRONG_FMSE
            assert np.delete(errors, planted.place).max() < 60 and np.delete(errors, planted.place).max() > 0
        assert len({planted.place for planted in found if planted is not None}) > 3

    def test_a_classifier_is_trained_further(self, trained, pictures, tmp_path):
        result, _ = trained
        config = config_of(pictures, tmp_path / "more", init=Path(result["checkpoint"]))
        assert torch.equal(load_pretrained_classifier(config).probe[2].weight, load_harmony_classifier(result["checkpoint"]).probe[2].weight)
        assert main(config)["report"]["auc"] > 0.85

    def test_a_killed_run_gives_the_same_weights(self, runs, pictures, tmp_path):
        def start(out):
            fields = {
                "data.roots": pictures, "data.size": SIDE, "optim.batch-size": 4, "optim.steps": 8, "run.save-every": 2, "run.out": out,
                "run.tracker": "none", "run.samples": 1, "architecture.input-size": 32, "held-out": 0.2,
            }  # fmt: skip
            options = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
            return runs.start("train-classifier", "tiny", "--json", *options, "--architecture.widths", "8", "16")

        whole, killed = tmp_path / "whole", tmp_path / "killed"
        expected = start(whole).result()
        run = start(killed)
        while run.alive() and not list(killed.glob("state/step-*.pt")):
            pass
        run.kill()
        assert not (killed / "report.json").exists()
        again = start(killed)
        assert again.result()["report"] == expected["report"] and "resuming from" in again.output()
        for place in (".", "last"):
            first, second = (load_file(out / place / "harmony_classifier.safetensors") for out in (whole, killed))
            assert all(torch.equal(first[name], second[name]) for name in first)


class TestFeatures:
    def test_they_are_computed_once(self, pictures, tmp_path, caplog):
        config = with_resnet(config_of(pictures, tmp_path / "run"), views=2)
        result = main(config)
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("features-*.safetensors")}
        assert len(files) == 2 and result["report"]["pairs"] > 0
        caplog.clear()
        more = replace(config, optim=replace(config.optim, steps=8), run=replace(config.run, resume=True))
        with caplog.at_level("INFO", logger="diffharmony"):
            assert main(more)["steps"] == 8
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("features-*")} == files
        assert caplog.text.count("reading features from") == 2

    def test_they_are_the_backbones_own_and_belong_to_it(self, pictures, tmp_path):
        config = with_resnet(config_of(pictures, tmp_path))
        config = replace(config, data=replace(config.data, flip=False))
        classifier, (_, held_out) = load_pretrained_classifier(config), load_data(config)
        arguments = {"views": 1, "folder": tmp_path, "seed": 0, "device": torch.device("cpu")}
        cached = cache_features(classifier, held_out, **arguments)
        assert cached.tensors["real_features"].shape == (len(held_out), 2048)
        task = ClassifierTask(classifier, held_out.examples(2)).eval()
        features = {name: rows[:3].float() for name, rows in cached.tensors.items()}
        views = [held_out.view(index, np.random.default_rng(0)) for index in range(3)]
        batch = {name: torch.stack([view[name] for view in views]) for name in ("composite", "real", "mask")}
        torch.testing.assert_close(task(features), task(batch), rtol=1e-2, atol=1e-3)
        with torch.no_grad():
            classifier.backbone.conv1.weight.mul_(1.5)
        cache_features(classifier, held_out, **arguments)
        held_out.alike = True
        cache_features(classifier, held_out, **arguments)
        assert len(list(tmp_path.glob("features-*.safetensors"))) == 3

    def test_imagenet_weights_come_from_a_file(self, pictures, tmp_path):
        torch.manual_seed(3)
        theirs = models.resnet50()
        torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
        config = replace(with_resnet(config_of(pictures, tmp_path)), backbone_weights=str(tmp_path / "resnet50.pth"))
        assert torch.equal(load_pretrained_classifier(config).backbone.layer3[5].conv2.weight, theirs.layer3[5].conv2.weight)


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, error, message",
        [
            ({"backbone_weights": None}, ValueError, "backbone_weights must name ResNet-50's ImageNet weights, got None"),
            ({"backbone_weights": "owner/name"}, ValueError, "backbone_weights must name the weights file of a Hub repository"),
            ({"backbone_weights": "none.pth"}, FileNotFoundError, "backbone_weights must be a folder or file that exists"),
            ({"held_out": 1.0}, ValueError, r"held_out must lie in \[0, 1\), got 1.0"),
            ({"views": 0}, ValueError, "views must lie in"),
            ({"data": {"sizes": (32, 64)}, "dry_run": True}, ValueError, "data.sizes must be left out where features are cached"),
            ({"run": {"gradient_checkpointing": True}}, ValueError, "run.gradient_checkpointing must be off"),
        ],
    )
    def test_what_does_not_go_together(self, pictures, tmp_path, changes, error, message):
        config = with_resnet(config_of(pictures, tmp_path / "run"))
        for name, value in changes.items():
            config = replace(config, **{name: replace(getattr(config, name), **value) if isinstance(value, dict) else value})
        with pytest.raises(error, match=message):
            main(config)

    def test_backbone_weights_of_the_small_one(self, pictures, tmp_path):
        with pytest.raises(ValueError, match="backbone_weights must be left out for the backbone small, got 'random'"):
            main(config_of(pictures, tmp_path, backbone_weights="random"))

    def test_a_file_that_is_no_resnet(self, pictures, tmp_path):
        torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="must be a ResNet-50 under torchvision's names"):
            main(replace(with_resnet(config_of(pictures, tmp_path / "run")), backbone_weights=str(tmp_path / "other.pth")))

    @pytest.mark.parametrize(
        "options, message",
        [
            (["--init", "a.safetensors", "--architecture.crop"], "architecture must not go with init"),
            (["--run.validation-list", "test.txt", "--held-out", "0.2"], "held_out must not go with run.validation_list"),
        ],
    )
    def test_options_that_do_nothing_together(self, pictures, capsys, options, message):
        assert run_command(["train-classifier", "tiny", "--data.roots", str(pictures), *options]) == 1
        assert message in capsys.readouterr().err


def test_a_dry_run_writes_nothing(pictures, tmp_path, capsys):
    options = ["--data.roots", str(pictures), "--run.out", str(tmp_path / "run"), "--dry-run", "--json", "--data.workers", "0"]
    arguments = ["paper", *options, "--backbone-weights", "random", "--architecture.input-size", "32"]
    assert run_command(["train-classifier", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["trainable_parameters"] == 2 * 2048 + 2 and plan["validation_images"] > 0 and not (tmp_path / "run").exists()
