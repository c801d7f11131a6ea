"""Training samples as they reach the loop: mixtures, sizes, bad images, cached latents, the loader's processes (SPEC §7)."""

import json
import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from diffharmony.dataset.pairs import BadImage, read_list
from diffharmony.tests.made.pairs import config_of, own, root, steps, write_pairs  # noqa: F401
from diffharmony.train.checks import check
from diffharmony.train.config import OptimConfig, RunConfig, TrainingConfig
from diffharmony.train.data.bad_images import without_bad_images
from diffharmony.train.data.batches import to_float_batch
from diffharmony.train.data.dataset import HarmonizationDataset
from diffharmony.train.data.latents import cache_latents


class TestSamples:
    def test_depend_on_seed_and_counter_only(self, root):
        config = config_of(root, min_crop=0.5)
        first, second = HarmonizationDataset(config, 7), HarmonizationDataset(config, 7)
        order = [first[counter]["name"] for counter in range(6)]
        assert sorted(order) == sorted(str(pair.composite) for pair in first.pairs)  # an epoch is every pair once
        for counter in (11, 3, 6):
            assert all(np.array_equal(first[counter][name], second[counter][name]) for name in first[counter])
        assert [HarmonizationDataset(config, 8)[counter]["name"] for counter in range(6)] != order

    def test_roots_are_mixed_by_weight_each_with_its_list(self, root, tmp_path):
        generated = tmp_path / "generated"
        write_pairs(generated, ["HCOCO/g1"], list_file="generated.jsonl")
        lines = (generated / "generated.jsonl").read_text().split()
        (generated / "generated.jsonl").write_text("".join(json.dumps({"file_name": line}) + "\n" for line in lines))
        config = config_of(root, roots=(root, generated), list_files=("IHD_train.txt", "generated.jsonl"))
        by_size, by_weight = HarmonizationDataset(config, 0), HarmonizationDataset(replace(config, weights=(1.0, 1.0)), 0)
        assert len(by_size) == len(by_weight) == 8
        for dataset, share in ((by_size, 2), (by_weight, 4)):
            counts = Counter(str(generated) in dataset[counter]["name"] for counter in range(16))
            assert counts[True] == 2 * share
        with pytest.raises(ValueError, match=r"data.list_files must be one for each of data.roots \(2\), got 1"):
            HarmonizationDataset(replace(config, list_files=("IHD_train.txt",)), 0)
        with pytest.raises(ValueError, match=r"data.weights must be one number above 0 for each of data.roots \(2\), got \(1.0,\)"):
            HarmonizationDataset(replace(config, weights=(1.0,)), 0)

    def test_a_step_has_one_size_in_every_process_and_part(self, root):
        dataset = HarmonizationDataset(config_of(root, sizes=(32, 48, 48)), 0, batch_size=4)
        shares = [steps(dataset, batch_size=4, count=4, accumulation=2, rank=rank, processes=2) for rank in (0, 1)]
        for share in shares:
            assert [batch["real"].shape[-1] for batch in share] == [32, 32, 48, 48, 48, 48, 32, 32]
        assert dataset.examples(6)["composite"].shape == (6, 3, 32, 32)
        assert dataset.view(0, np.random.default_rng(0))["real"].shape == (3, 32, 32)
        with pytest.raises(ValueError, match="batch_size must be the images per step when data.sizes are given"):
            HarmonizationDataset(config_of(root, sizes=(32, 48)), 0)

    def test_the_config_is_checked(self, root):
        def config(**changes):
            return TrainingConfig(data=config_of(root, **changes), optim=OptimConfig(batch_size=4), run=RunConfig())

        check(config(sizes=(32, 64), weights=(0.5,)))
        for changes, message in (
            ({"sizes": (32, 60)}, "data.sizes must be a multiple of 8, got 60"),
            ({"sizes": (16,)}, r"data.sizes must lie in \[32, 8192\], got 16"),
            ({"weights": (-1.0,)}, r"data.weights must lie in \(0, 1e9\], got -1.0"),
        ):
            with pytest.raises(ValueError, match=message):
                check(config(**changes))


class TestLoader:
    def test_batches_are_the_samples_whoever_reads_them(self, root):
        dataset = HarmonizationDataset(config_of(root, min_crop=0.5), 1)
        by_workers = [steps(dataset, batch_size=4, count=3, workers=workers) for workers in (0, 2)]
        halves = [steps(dataset, batch_size=4, count=3, rank=rank, processes=2) for rank in (0, 1)]
        for step in range(3):
            wanted = [dataset[counter] for counter in range(4 * step, 4 * step + 4)]
            joined = [halves[0][step], halves[1][step]]
            for name in ("composite", "real", "mask"):
                stacked = torch.stack([sample[name] for sample in wanted])
                assert stacked.dtype == torch.float32 and stacked.min() >= -1 and stacked.max() <= 1
                assert all(batches[step][name].equal(stacked) for batches in by_workers)
                assert torch.cat([half[name] for half in joined]).equal(stacked)
            for batches in by_workers:
                assert batches[step]["seed"].tolist() == [sample["seed"] for sample in wanted]
                assert batches[step]["name"] == [sample["name"] for sample in wanted]

    def test_eight_bits_cross_to_this_process(self, root):
        packed = HarmonizationDataset(config_of(root), 0).pack([0, 1])
        assert {packed[name].dtype for name in ("composite", "real", "mask")} == {torch.uint8}
        batch = to_float_batch(packed)
        assert batch["composite"].equal(packed["composite"].float() / 127.5 - 1.0) and batch["mask"].is_contiguous()

    def test_single_samples_are_collated(self):
        class Squares(torch.utils.data.Dataset):
            def __getitem__(self, counter):
                return {"value": torch.tensor(float(counter**2)), "seed": counter, "name": str(counter)}

        (_, batch) = steps(Squares(), batch_size=3, count=2, workers=1)
        assert batch["value"].tolist() == [9, 16, 25] and batch["seed"].tolist() == [3, 4, 5] and batch["name"] == ["3", "4", "5"]


def damage(path, kind):
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "no image":
        path.write_text("not an image")
    elif kind == "another size":
        Image.new("RGB", (9, 9)).save(path)
    else:
        path.unlink()


class TestBadImages:
    @pytest.mark.parametrize("suffix, size", [(".png", 32), (".jpg", 96), (".jpg", 32)])  # the last is decoded reduced
    @pytest.mark.parametrize("kind", ["truncated", "no image", "another size", "vanished"])
    @pytest.mark.parametrize("folder", ["composite_images", "real_images", "masks"])
    def test_stop_names_the_file(self, tmp_path, suffix, size, kind, folder):
        write_pairs(tmp_path, ["HCOCO/a1"], suffix=suffix, side=128)
        dataset = HarmonizationDataset(config_of(tmp_path, size=size), 0)
        victim = sorted((tmp_path / "HCOCO" / folder).iterdir())[0]
        damage(victim, kind)
        reason = {"another size": "must have one size, got", "vanished": "must exist"}.get(kind, "must be a readable image")
        with pytest.raises(ValueError, match=reason) as caught:
            [dataset[counter] for counter in range(2)]
        if folder != "composite_images" or kind != "another size":  # the composite's size is what others are held to
            assert caught.value.path == victim
        assert "a1" in str(caught.value)

    def test_stop_in_another_process_comes_as_one_line(self, own):
        dataset = HarmonizationDataset(config_of(own), 0)
        damage(own / "HCOCO" / "real_images" / "a1.png", "truncated")
        with pytest.raises(BadImage, match="real_images/a1.png must be a readable image") as caught:
            steps(dataset, batch_size=6, count=1, workers=1)
        assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)

    def test_skip_leaves_their_pairs_out_names_them_and_writes_the_rest(self, own, tmp_path, caplog):
        victim, missing = own / "HCOCO" / "real_images" / "a1.png", own / "HFlickr" / "masks" / "größe 3_2.png"
        damage(victim, "truncated")
        damage(missing, "vanished")
        found = {}
        for workers in (0, 2):
            caplog.clear()
            data, out = config_of(own, min_crop=0.5, on_bad_image="skip", workers=workers), tmp_path / f"run-{workers}"
            config = TrainingConfig(data=data, run=RunConfig(out=out))
            with caplog.at_level(logging.WARNING, "diffharmony"):
                found[workers] = without_bad_images(HarmonizationDataset(data, 0), config)
            assert found[workers].bad_images == (str(victim), str(missing))
            assert [record.getMessage().count("a1.png") for record in caplog.records] == [1, 0]
        good = [*(f"HCOCO/composite_images/a2_{k}_1.png" for k in (1, 2)), "HFlickr/composite_images/größe 3_1_1.png"]
        listed = [str(pair.composite) for pair in read_list(own, str(out / "good-1.txt"))]
        assert listed == [str(own / name) for name in good] == [str(pair.composite) for pair in found[0].pairs]
        # the same samples as those of that list
        by_list = HarmonizationDataset(config_of(own, min_crop=0.5, list_file=str(out / "good-1.txt")), 0)
        for index in range(6):
            assert all(np.array_equal(by_list[index][name], found[2][index][name]) for name in ("composite", "mask", "seed", "name"))

    def test_nothing_is_written_by_a_dry_run_or_where_nothing_is_left(self, own, tmp_path):
        damage(own / "HFlickr" / "real_images" / "größe 3.png", "no image")
        config = TrainingConfig(data=config_of(own, on_bad_image="skip"), run=RunConfig(out=tmp_path / "run"), dry_run=True)
        assert len(without_bad_images(HarmonizationDataset(config.data, 0), config)) == 4
        assert not (tmp_path / "run").exists()
        (own / "bad.txt").write_text("HFlickr/composite_images/größe 3_1_1.png\n", encoding="utf-8")
        data = config_of(own, roots=(own, own), list_files=("IHD_train.txt", "bad.txt"), on_bad_image="skip")
        with pytest.raises(ValueError, match="each of data.roots must keep some of its images, got none of"):
            without_bad_images(HarmonizationDataset(data, 0), config)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip


class TestCachedLatents:
    def cached(self, vae, dataset, folder, views=2):
        return cache_latents(vae, dataset, views=views, direction="harmonize", folder=folder, seed=0, device=torch.device("cpu"))

    def test_are_those_of_the_images(self, root, vae, tmp_path):
        dataset = HarmonizationDataset(config_of(root, min_crop=0.5), 0)
        latents = self.cached(vae, dataset, tmp_path)
        assert len(latents) == 12 and sorted(latents[c]["name"] for c in range(12)) == sorted(latents.names)
        (batch,) = steps(latents, batch_size=3, count=1)
        for place in range(3):
            assert all(batch[name][place].equal(latents[place][name]) for name in ("condition_latent", "target_latent", "mask_latent"))
            assert batch["seed"][place] == latents[place]["seed"] and batch["name"][place] == latents[place]["name"]
        row = latents.names.index(str(dataset.pairs[2].composite))
        sample = dataset.view(2, np.random.default_rng((0, 2, 2, 0)))
        with torch.no_grad():
            wanted = vae.encode(sample["real"][None]).latent_dist.mode()[0] * vae.config.scaling_factor
        assert latents.tensors["target_latent"][row].float().sub(wanted).abs().max() < 2e-3

    def test_weights_hold_for_them_too(self, root, vae, tmp_path):
        write_pairs(tmp_path / "second", ["HCOCO/g1"])
        config = config_of(root, roots=(root, tmp_path / "second"), weights=(1.0, 1.0))
        latents = self.cached(vae, HarmonizationDataset(config, 0), tmp_path)
        assert sum("second" in latents[counter]["name"] for counter in range(16)) == 8


def test_the_loader_benchmark_measures_both(tmp_path):
    from diffharmony.applications.benchmarks.loader import OURS, REFERENCE, LoaderBenchmark, _measure, write_pictures

    write_pictures(tmp_path, {"small": 0.5, "middle": 0.5}, 4)
    sizes = sorted(Image.open(pair.real).size for pair in read_list(tmp_path, "IHD_train.txt"))
    assert sizes == [(640, 480)] * 2 + [(1024, 768)] * 2
    result = _measure(tmp_path, 64, LoaderBenchmark(images=4, batch_size=2, workers=1, repeats=1))
    speeds = result["images_per_second"]
    assert result["ratio"] == pytest.approx(speeds[OURS] / speeds[REFERENCE]) and result["ratio"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="the loop would take the GPU")
def test_the_training_step_benchmark_measures_loop_and_parts():
    from diffharmony.applications.benchmarks.training_step import TrainingStepBenchmark, run

    result = run(TrainingStepBenchmark(size=32, batch_size=1, steps=1))
    assert list(result["parts"]) == ["encode", "conditional encode", "decode", "backward", "optimizer", "EMA"]
    assert result["sum"] == pytest.approx(sum(result["parts"].values())) and result["ratio"] == result["step"] / result["sum"] > 0
