"""The loss on the fitted change of light and the colours of latents."""

from dataclasses import replace

import pytest
import torch

from diffharmony.diffusion import load_unet
from diffharmony.tests.made.training import unet_config
from diffharmony.train import unet
from diffharmony.train.colour import ColourReadout
from diffharmony.train.losses import COMMON_FMSE, colour_map_loss


def images(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(count, 3, 12, 12, generator=generator) * 0.7 + 0.1
    composite = (real * torch.tensor([1.15, 0.9, 0.75])[:, None, None]).clamp(0, 1)
    mask = torch.zeros(count, 1, 12, 12)
    mask[:, :, 3:9, 2:9] = 1
    return real, torch.where(mask > 0, composite, real), mask


class TestColourMapLoss:
    def test_the_right_change_leaves_little_and_none_leaves_all(self):
        real, composite, mask = images()
        assert colour_map_loss(real, real, composite, mask, power=1.0).max() < 0.05
        unchanged = colour_map_loss(composite, real, composite, mask, power=1.0, floor=0.0)
        torch.testing.assert_close(unchanged, torch.ones(3), atol=1e-4, rtol=0)
        own = ((composite - real).square() * mask).sum(dim=(1, 2, 3)) * 255**2 / (3 * mask.sum(dim=(1, 2, 3)))
        torch.testing.assert_close(colour_map_loss(composite, real, composite, mask, power=0.0), own / COMMON_FMSE, rtol=1e-3, atol=0)

    def test_noise_costs_little_and_another_background_nothing(self):
        real, composite, mask = images()
        noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1)) * 0.02
        clean, noisy = (colour_map_loss(values, real, composite, mask) for values in (real, real + noise * mask))
        assert (noisy - clean).max() < 0.05
        torch.testing.assert_close(colour_map_loss(real + noise * (1 - mask), real, composite, mask), clean)

    def test_gradients_are_finite_in_the_dark(self):
        real, composite, mask = images()
        predicted = (real - 0.5).requires_grad_(True)
        colour_map_loss(predicted, real * 0, composite, mask).sum().backward()
        assert predicted.grad.isfinite().all() and predicted.grad.abs().sum() > 0


class TestReadout:
    def test_a_linear_map_is_found(self):
        latents = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        colours = ColourReadout(torch.tensor([[0.1, 0, 0, 0.05], [0, 0.1, 0, 0], [0.02, 0, 0.1, 0]]), torch.tensor([0.5, 0.4, 0.3]))
        found = ColourReadout.fitted(latents, colours(latents))
        torch.testing.assert_close(found.weight, colours.weight, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.bias, colours.bias, atol=1e-5, rtol=0)

    def test_latents_that_tell_no_colours_are_refused(self):
        generator = torch.Generator().manual_seed(0)
        with pytest.raises(ValueError, match="latents must tell their blocks' colours"):
            ColourReadout.fitted(torch.randn(4, 4, 6, 6, generator=generator), torch.rand(4, 3, 6, 6, generator=generator))


def test_training_with_it(root, base, tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "readout_of", lambda vae, batches: ColourReadout(torch.eye(3, 4) * 0.1, torch.full((3,), 0.5)))
    config = unet_config(root, base, tmp_path / "colour", own_predictions=1.0, first_timesteps=0.5, colour_loss=1.0, cached_views=1)
    coloured = load_unet(unet.main(config)["checkpoint"])
    plain = load_unet(unet.main(replace(config, colour_loss=0.0, run=replace(config.run, out=tmp_path / "plain")))["checkpoint"])
    assert not torch.equal(coloured.conv_in.weight, plain.conv_in.weight)


def test_first_timesteps():
    seeds = torch.arange(2000)
    assert torch.equal(unet.draw_timesteps(seeds, 0.5, 0.0), unet.draw_timesteps(seeds, 0.5))
    share = (unet.draw_timesteps(seeds, 0.0, 0.6) == 999).double().mean()
    assert 0.55 < share < 0.65
