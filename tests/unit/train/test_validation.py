"""What a run shows and leaves: averaged and last weights, validation, trackers, curves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.common.masks import mask_to_latent
from diffharmony.diffusion import load_unet, sample_latents
from diffharmony.diffusion.sampler import sample_generators
from diffharmony.harmony_vae import load_harmony_vae, load_vae
from diffharmony.tests.made.pairs import write_pairs
from diffharmony.tests.made.training import unet_config, vae_config
from diffharmony.train import unet, vae
from diffharmony.train.run.curves import draw_curve, smoothed
from diffharmony.train.validation import psnr, validation_of


def rows(run, name):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def with_validation(config, **run):
    return replace(config, run=replace(config.run, validation_list="IHD_train.txt", validate_every=2, validation_images=4, **run))


def test_averaged_and_last_weights_are_checkpoints_of_their_own(root, base, tmp_path):
    """Without averaging (decay 0) they are the same; with it, the averaged ones lag behind the last, which another decay leaves alone."""
    def train(name, decay):
        config = vae_config(root, base, tmp_path / name)
        path = Path(vae.main(replace(config, optim=replace(config.optim, ema_decay=decay)))["checkpoint"])
        last = path.parent / "last" / path.name
        assert read_checkpoint(last).training["weights"] == "last" and read_checkpoint(path).training["weights"] == "averaged"
        return [load_harmony_vae(file).decoder.conv_out.weight for file in (path, last)]

    averaged, last = train("with", 0.9)
    plain, plain_last = train("without", 0.0)
    assert torch.equal(plain, plain_last) and torch.equal(plain_last, last)
    start = load_vae(base).decoder.conv_out.weight
    assert 0 < (averaged - start).norm() < (last - start).norm()


class TestValidation:
    def test_of_a_harmony_vae(self, root, base, tmp_path):
        """PSNR and loss are those of the saved checkpoint, computed here anew; they do not change what is trained."""
        config = with_validation(vae_config(root, base, tmp_path / "run"))
        checkpoint = vae.main(config)["checkpoint"]
        found, losses = rows(tmp_path / "run", "validation_psnr"), rows(tmp_path / "run", "validation_loss")
        assert found.keys() == losses.keys() == {2, 4}
        trained, validation = load_harmony_vae(checkpoint), validation_of(config)
        batch = validation.batch(validation.indices)
        with torch.no_grad():
            decoded = trained.decode(trained.encode(batch["real"]).latent_dist.mode(), trained.encode_condition(batch["composite"], batch["mask"])).sample
        errors = (decoded.clamp(-1, 1) / 2 - batch["real"] / 2).square().flatten(1).mean(1).numpy()
        assert found[4] == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-5)
        assert losses[4] == pytest.approx((decoded - batch["real"]).square().mean().item(), rel=1e-4)
        plain = load_harmony_vae(vae.main(vae_config(root, base, tmp_path / "plain"))["checkpoint"]).state_dict()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in trained.state_dict().items())

    def test_of_a_unet_samples(self, root, base, tmp_path):
        config = with_validation(unet_config(root, base, tmp_path / "run", cached_views=1))
        trained = load_unet(unet.main(config)["checkpoint"])
        validation, encoder = validation_of(config), load_vae(base)
        batch = validation.batch(validation.indices)
        with torch.no_grad():
            condition = encoder.encode(batch["composite"]).latent_dist.mode() * 0.18215
            generators = sample_generators(batch["seed"].tolist(), 4)
            latent = sample_latents(trained, condition, mask_to_latent(batch["mask"], condition.shape[2:]), generator=generators)
            expected = psnr(encoder.decode(latent / 0.18215).sample, batch["real"]).mean().item()
        assert rows(tmp_path / "run", "validation_psnr")[4] == pytest.approx(expected, rel=1e-3)
        assert set(rows(tmp_path / "run", "validation_loss")) == {2, 4}

    def test_images_are_spread_and_always_the_same(self, root, base, tmp_path):
        config = with_validation(vae_config(root, base, tmp_path / "run"))
        first, second = validation_of(config), validation_of(config)
        assert first.indices == [0, 1, 3, 4] and len(first.batches()) == 2
        assert all(torch.equal(first.batch([0, 3])[name], second.batch([0, 3])[name]) for name in ("composite", "mask", "seed"))
        assert validation_of(vae_config(root, base, tmp_path / "run")) is None

    def test_each_root_that_has_the_list_takes_part(self, root, base, tmp_path):
        write_pairs(tmp_path / "second", ["HCOCO/g1"])
        write_pairs(tmp_path / "third", ["HCOCO/g2"], list_file="other.txt")
        config = with_validation(vae_config(root, base, tmp_path / "run"))
        config = replace(config, data=replace(config.data, roots=(tmp_path / "third", root, tmp_path / "second"), weights=(1.0, 2.0, 3.0)))
        validation = validation_of(config)
        measured = [validation.dataset.pairs[index].composite for index in validation.indices]
        assert len(validation.dataset.pairs) == 8 and {path.relative_to(root).parts[0] for path in measured if path.is_relative_to(root)} == {"HCOCO", "HFlickr"}
        assert any(path.is_relative_to(tmp_path / "second") for path in measured)
        absolute = str(root / "IHD_train.txt")
        alone = replace(config, run=replace(config.run, validation_list=absolute), data=replace(config.data, roots=(root, root), weights=()))
        assert len(validation_of(alone).dataset.pairs) == 6
        with pytest.raises(FileNotFoundError, match="list file 'none.txt' must exist, looked in .*third"):
            validation_of(replace(config, run=replace(config.run, validation_list="none.txt")))

    def test_psnr(self):
        black, white = -torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
        assert psnr(black, white).item() == pytest.approx(0)
        assert psnr(white * 0.8, white).item() == pytest.approx(20)  # off by a tenth of the range
        assert psnr(white * 7, white).item() == pytest.approx(100)


def test_tensorboard_holds_what_the_log_holds(root, base, tmp_path):
    config = with_validation(vae_config(root, base, tmp_path / "run"), sample_every=2)
    vae.main(config)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {event.step: pytest.approx(event.value) for event in events.Scalars("loss")} == rows(tmp_path / "run", "loss")
    assert [event.step for event in events.Scalars("validation_psnr")] == [2, 4]
    assert [event.step for event in events.Images("samples")] == [2, 4]
    assert (events.Images("samples")[0].width, events.Images("samples")[0].height) == (70, 172)


def test_no_tracker(root, base, tmp_path):
    config = vae_config(root, base, tmp_path / "run")
    vae.main(replace(config, run=replace(config.run, tracker="none")))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", "config.json", "harmony_vae.safetensors", "last", "log.jsonl", "loss.png", "samples", "state",
    ]  # fmt: skip


def test_the_checkpoint_tells_the_running_mean_of_the_log(root, base, tmp_path):
    checkpoint = vae.main(vae_config(root, base, tmp_path / "run"))["checkpoint"]
    losses = rows(tmp_path / "run", "loss")
    assert list(losses) == [1, 2, 3, 4]
    assert read_checkpoint(checkpoint).training["loss"] == smoothed(list(losses.values()))[-1]


def test_a_folders_name_is_no_formula(tmp_path):
    run = tmp_path / r"$\frac$"
    run.mkdir()
    (run / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    draw_curve(run / "log.jsonl", run / "loss.png")
    assert (run / "loss.png").is_file()


def test_curves(tmp_path):
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 6)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curve(tmp_path / "log.jsonl", tmp_path / "plain.png")
    lines += [{"step": 5, "validation_loss": 0.3, "validation_psnr": 31.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curve(tmp_path / "log.jsonl", tmp_path / "both.png")
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "both.png") as both:
        assert plain.width == both.width and both.height > plain.height
