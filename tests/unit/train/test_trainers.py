"""Trainers: losses, and what each trains (SPEC §2, §3, §4)."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.diffusion import load_unet
from diffharmony.harmony_vae import load_harmony_vae, load_vae
from diffharmony.tests.made.training import small_vae, unet_config, vae_config
from diffharmony.train import autoencoder, unet, vae
from diffharmony.train.autoencoder import whiten_latents
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.data.dataset import HarmonizationDataset
from diffharmony.train.data.latents import cache_latents
from diffharmony.train.losses import diffusion_loss, reconstruction_loss
from diffharmony.train.unet import draw_timesteps


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


def test_train_autoencoder_whitens_without_changing_the_decode(root, tmp_path, monkeypatch):
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
        run=RunConfig(out=tmp_path / "run", samples=2, validation_list="IHD_train.txt", validation_images=4),
        block_out_channels=(32, 32, 32, 32),
    )  # fmt: skip
    monkeypatch.setattr(autoencoder, "WHITENED_OVER", 16)
    path = Path(autoencoder.main(config)["checkpoint"])
    trained = load_vae(path)
    assert read_checkpoint(path).training["whitened"] and (trained.quant_conv.bias[4:] == -6).all()
    assert type(trained) is AutoencoderKL and trained.config.norm_num_groups == 8
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["validation_psnr"] > 0
    saved = path.read_bytes()
    autoencoder.main(config)
    assert path.read_bytes() == saved  # whitened once


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
