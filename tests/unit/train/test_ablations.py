"""Training runs by switch: the ablations of SPEC §9, both losses, and the Harmony-VAE on a UNet's own latents."""

import json
from dataclasses import replace

import pytest
import torch

from diffharmony.diffusion import sample_latents, save_unet
from diffharmony.diffusion.unet import attach
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, save_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.tests.made.pretrained import make_unet, make_vae, run_options, same_weights, write_data
from diffharmony.train import vae as train_vae
from diffharmony.train.data.dataset import HarmonizationDataset
from diffharmony.train.pretrained import load_pretrained_harmony_vae, sampling_unet


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


class TestAblations:
    @pytest.mark.parametrize("loss", ["squared", "l1"])
    @pytest.mark.parametrize("trainable", ["encoder_and_decoder", "conditional_encoder"])
    def test_parts_by_initialisation_by_loss(self, data, tmp_path, trainable, loss):
        """Table 5's four cells, each under both losses: every run ends with finite weights that moved where they may."""
        vae = make_vae()
        save_autoencoder(vae, tmp_path / "vae.safetensors", dtype=torch.float32)
        first = {}
        for kind in ("zero", "random"):
            config = train_vae.HarmonyVAETraining(
                init=str(tmp_path / "vae.safetensors"), trainable=trainable, initialization=kind, loss=loss,
                **run_options(data, tmp_path / kind),
            )  # fmt: skip
            trained = load_harmony_vae(train_vae.main(config)["checkpoint"])
            assert same_weights(vae.encoder, trained.encoder)
            assert same_weights(vae.decoder, trained.decoder) == (trainable == "conditional_encoder")
            assert all(conv.weight.any() for conv in trained.zero_convs()[1:])
            first[kind] = json.loads((tmp_path / kind / "log.jsonl").read_text().splitlines()[0])["loss"]
        dataset = HarmonizationDataset(config.data, 0)
        real = torch.stack([dataset[counter]["real"] for counter in range(2)])
        with torch.no_grad():
            error = vae.decode(vae.encode(real).latent_dist.mode()).sample - real
        plain = (error.square() if loss == "squared" else error.abs()).mean().item()
        assert first["zero"] == pytest.approx(plain, rel=1e-5)  # at zero, the first loss is the plain VAE's own
        assert abs(first["random"] - plain) > 1e-3 * plain

    def test_zero_is_exact_and_random_is_not(self, tmp_path):
        vae = make_vae()
        save_autoencoder(vae, tmp_path / "vae.safetensors", dtype=torch.float32)
        start = tmp_path / "vae.safetensors"
        zero, random = load_pretrained_harmony_vae(start), load_pretrained_harmony_vae(start, "random", seed=3)
        image, mask, z = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16), torch.randn(1, 4, 8, 8)
        with torch.no_grad():
            assert torch.equal(zero.decode(z, zero.encode_condition(image, mask)).sample, vae.decode(z).sample)
            assert not torch.allclose(random.decode(z, random.encode_condition(image, mask)).sample, vae.decode(z).sample)
        names = [name for name, tensor in zero.state_dict().items() if not torch.equal(tensor, random.state_dict()[name])]
        assert names and all("skip_conv" in name or "add_conv_in" in name for name in names)
        assert len(names) == 2 * len(random.zero_convs()) == 2 * (4 + 3)  # weight and bias; 4 skip features, mask, mid, latent
        assert random.conditional_encoder.add_conv_in.weight.std().item() == pytest.approx(3**-0.5 / 3, rel=0.1)  # U(-1/3, 1/3)
        assert same_weights(random, load_pretrained_harmony_vae(start, "random", seed=3))
        assert not same_weights(random, load_pretrained_harmony_vae(start, "random", seed=4))

    def test_a_loss_that_overflows_stops_the_run(self, data, tmp_path):
        """Where random initialisation leads, the loop's own stop catches it (the paper has NaN for E_c only)."""
        save_autoencoder(make_vae(), tmp_path / "vae.safetensors", dtype=torch.float32)
        config = train_vae.HarmonyVAETraining(
            init=str(tmp_path / "vae.safetensors"), initialization="random", trainable="conditional_encoder",
            **run_options(data, tmp_path / "run", learning_rate=900.0, warmup=0.0, gradient_clip=0, steps=60),
        )  # fmt: skip
        with pytest.raises(FloatingPointError, match=r"loss must be finite, got (nan|inf) at step \d+ for .*composite_images"):
            train_vae.main(config)

    def test_random_and_further_training_contradict_each_other(self, tmp_path):
        save_harmony_vae(HarmonyVAE.from_autoencoder_kl(make_vae()), tmp_path / "vae.safetensors", dtype=torch.float32)
        assert isinstance(load_pretrained_harmony_vae(tmp_path / "vae.safetensors"), HarmonyVAE)
        with pytest.raises(ValueError, match="initialization must be left out for a Harmony-VAE to train further, got 'random'"):
            load_pretrained_harmony_vae(tmp_path / "vae.safetensors", "random")
        with pytest.raises(ValueError, match="initialization must be one of zero, random, got 'ones'"):
            HarmonyVAE.from_autoencoder_kl(make_vae(), "ones")


class TestOwnLatents:
    """The Harmony-VAE on a UNet's own z0' (the authors' online variant)."""

    @pytest.fixture
    def unet_file(self, tmp_path):
        unet = attach(make_unet(), torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(0)), "harmonize", "v_prediction")
        save_unet(unet, tmp_path / "unet.safetensors", dtype=torch.float32)
        return tmp_path / "unet.safetensors"

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_share_of_the_samples(self, data, tmp_path, unet_file, share):
        config = train_vae.HarmonyVAETraining(unet=str(unet_file), unet_share=share, **run_options(data, tmp_path / "run"))
        vae, unet = HarmonyVAE.from_autoencoder_kl(make_vae()), sampling_unet(unet_file, "harmonize")
        samples = [HarmonizationDataset(config.data, 0)[counter] for counter in range(12)]
        composite, real, mask = (torch.stack([sample[name] for sample in samples]) for name in ("composite", "real", "mask"))
        seeds = torch.tensor([sample["seed"] for sample in samples])
        task = train_vae.HarmonyVAETask(vae, config, {"composite": composite, "mask": mask, "real": real}, unet)
        with torch.no_grad():
            latents = task._latents(composite, real, mask, seeds)
            encoded = vae.encode(real).latent_dist.mode()
            condition = vae.encode(composite).latent_dist.mode() * 0.18215
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        own = sample_latents(unet, condition, mask[:, :, ::2, ::2], generator=generators) / 0.18215
        from_unet = [torch.allclose(latents[index], own[index], atol=1e-3) for index in range(12)]
        from_vae = [torch.equal(latents[index], encoded[index]) for index in range(12)]
        assert all(a != b for a, b in zip(from_unet, from_vae))
        assert sum(from_unet) == {0.0: 0, 1.0: 12}.get(share, sum(from_unet)) and (share != 0.5 or 2 <= sum(from_unet) <= 10)
        assert not any("unet" in name for name, _ in task.named_parameters())

    def test_both_training_runs(self, data, tmp_path, unet_file):
        make_vae().save_pretrained(tmp_path / "vae")
        options = run_options(data, tmp_path / "run")
        config = train_vae.HarmonyVAETraining(init=str(tmp_path / "vae"), unet=str(unet_file), unet_share=1.0, **options)
        own = load_harmony_vae(train_vae.main(config)["checkpoint"])
        plain = load_harmony_vae(train_vae.main(replace(config, unet=None, run=replace(config.run, out=tmp_path / "plain")))["checkpoint"])
        assert not same_weights(own, plain)
        with pytest.raises(ValueError, match="unet must be of direction 'invert', got 'harmonize'"):
            train_vae.main(replace(config, direction="invert", run=replace(config.run, out=tmp_path / "no")))
        assert not (tmp_path / "no").exists()

    def test_a_unet_without_an_empty_prompt(self, tmp_path):
        make_unet().save_pretrained(tmp_path / "unet")
        with pytest.raises(ValueError, match="unet must come with empty_prompt_embeds, got none"):
            sampling_unet(tmp_path / "unet", "harmonize")
