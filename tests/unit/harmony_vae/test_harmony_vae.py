"""The Harmony-VAE: golden parity, zero initialisation, loading and refusing, tiles (SPEC §3, §10, §11)."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, load_vae, save_harmony_vae
from diffharmony.harmony_vae.checkpoint import state_with_metadata

DATA = Path(__file__).parents[2] / "data"
GOLDEN = ("small", "two_level")


def golden(name):
    weights = DATA / f"condition_vae_{name}.weights.safetensors"
    with safe_open(weights, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    return config, load_file(weights), load_file(DATA / f"condition_vae_{name}.expected.safetensors")


def plain_vae(widths=(32, 64), layers=1, **config):
    torch.manual_seed(0)
    levels = len(widths)
    defaults = dict(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=layers, norm_num_groups=8,
    )  # fmt: skip
    return AutoencoderKL(**{**defaults, **config}).eval()


def trained(vae):
    """Any weights but zeros in the parts that start at zero, so that the condition matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "skip_conv" in name or "add_conv_in" in name:
                parameter.normal_(0, 0.3)
    return vae.eval()


def random_inputs(batch=1, height=64, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    return image, (torch.rand(batch, 1, height, width, generator=generator) > 0.5).float()


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_golden_parity(name):
    config, weights, expected = golden(name)
    vae = HarmonyVAE(**config).eval()
    vae.load_state_dict(weights)
    condition = vae.encode_condition(expected["composite"], expected["mask"])
    found = {
        "encode.mean": vae.encode(expected["composite"]).latent_dist.mean,
        "cond_latent.mean": condition.latent,
        "mid_skip": condition.mid_skip_feature,
        "decode": vae.decode(expected["latent"]).sample,
        "decode_with_cond.mode": vae.decode(expected["latent"], condition).sample,
        **{f"skip.{index:02d}": feature for index, feature in enumerate(condition.skip_features)},
    }
    assert found.keys() == expected.keys() - {"composite", "mask", "latent"}
    for key, tensor in found.items():
        # of the tensor's range: CPUs without AVX-512 round features of 1.5 by 1.1e-5
        bound = 1e-5 * max(1.0, expected[key].abs().max().item())
        torch.testing.assert_close(tensor, expected[key], atol=bound, rtol=0, msg=lambda text: f"{key}: {text}")


CONFIGS = [
    {},
    {"widths": (16, 32, 32, 64), "layers": 2},
    {"use_quant_conv": False, "use_post_quant_conv": False},
    {"mid_block_add_attention": False, "latent_channels": 16, "scaling_factor": 0.3, "shift_factor": 0.1},
    {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.no_grad()
def test_from_autoencoder_kl_decodes_as_before_bit_for_bit(config):
    plain = plain_vae(**config)
    vae = HarmonyVAE.from_autoencoder_kl(plain).eval()
    image, mask = random_inputs()
    assert not vae.conditional_encoder.add_conv_in.weight.any() and not vae.conditional_encoder.add_conv_in.bias.any()
    z = vae.encode(image).latent_dist.mode()
    assert torch.equal(z, plain.encode(image).latent_dist.mode())
    conditional = vae.decode(z, vae.encode_condition(image, mask)).sample
    assert torch.equal(conditional, vae.decode(z).sample)
    assert torch.equal(conditional, plain.decode(z).sample)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1), st.integers(1, 3))
@torch.no_grad()
def test_zero_initialisation_for_any_image_mask_and_size(rows, columns, seed, batch):
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16, 16, 16, 16))).eval()
    image, mask = random_inputs(batch, rows * 8, columns * 8, seed)
    z = torch.randn(batch, 4, rows, columns, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(vae.decode(z, vae.encode_condition(image, mask)).sample, vae.decode(z).sample)


@pytest.mark.parametrize(
    "parts, frozen", [("encoder_and_decoder", ("encoder", "quant_conv", "post_quant_conv")), ("conditional_encoder", ("encoder", "decoder", "quant_conv", "post_quant_conv"))]
)
def test_what_trains_and_what_stays(parts, frozen):
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae())
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    optimizer = torch.optim.SGD(vae.set_trainable(parts), lr=0.1)
    image, mask = random_inputs()
    for _ in range(2):  # the features behind a zero convolution get a gradient from the second step on
        condition = vae.encode_condition(image, mask)
        loss = (vae.decode(vae.encode(image).latent_dist.mode(), condition).sample - image.flip(3)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name.split(".")[0] for name, tensor in vae.state_dict().items() if not torch.equal(tensor, before[name])}
    everything = {"encoder", "decoder", "quant_conv", "post_quant_conv", "conditional_encoder", "latent_skip_conv"}
    assert changed == everything - set(frozen)
    after = vae.state_dict()
    for name in ("conditional_encoder.add_conv_in.weight", "conditional_encoder.mid_block_skip_conv.weight", "latent_skip_conv.weight"):
        assert not torch.equal(after[name], before[name])
    with pytest.raises(ValueError, match="trainable parts must be one of"):
        vae.set_trainable("decoder")


def test_gradient_checkpointing_gives_the_same_gradients():
    image, mask = random_inputs()
    gradients = []
    for checkpointing in (False, True):
        vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae())).train()
        if checkpointing:
            vae.enable_gradient_checkpointing()
            assert vae.conditional_encoder.gradient_checkpointing and vae.decoder.gradient_checkpointing
        vae.set_trainable()
        vae.decode(torch.ones(1, 4, 32, 24), vae.encode_condition(image, mask)).sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in vae.named_parameters() if parameter.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 100
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
@torch.no_grad()
def test_precisions(dtype, tolerance):
    image, mask = random_inputs()
    z = torch.randn(1, 4, 32, 24, generator=torch.Generator().manual_seed(2))
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae()))
    expected = vae.decode(z, vae.encode_condition(image, mask)).sample
    vae = vae.to(dtype)
    found = vae.decode(z.to(dtype), vae.encode_condition(image.to(dtype), mask)).sample
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def test_one_condition_serves_many_latents_and_slicing_changes_nothing():
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae()))
    image, mask = random_inputs(batch=2)
    z = torch.randn(2, 4, 32, 24)
    shared = vae.encode_condition(image[:1], mask[:1])
    both = vae.decode(z, shared).sample
    single = torch.cat([vae.decode(z[i : i + 1], shared).sample for i in range(2)])
    torch.testing.assert_close(both, single, atol=1e-5, rtol=0)
    assert not torch.allclose(both, vae.decode(z).sample, atol=1e-2)
    whole = vae.decode(z, vae.encode_condition(image, mask)).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae.decode(z, vae.encode_condition(image, mask)).sample, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(z, shared).sample, both, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_generator_samples_the_posterior():
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae()))
    image, mask = random_inputs()
    mode = vae.encode_condition(image, mask).latent
    samples = [vae.encode_condition(image, mask, generator=torch.Generator().manual_seed(seed)).latent for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2]) and not torch.equal(samples[0], mode)


@pytest.mark.parametrize(
    "image, mask, message",
    [
        ((1, 3, 60, 64), (1, 1, 60, 64), "multiples of 8, got 60 x 64"),
        ((1, 4, 64, 64), (1, 1, 64, 64), r"image must be \[B, 3, H, W\], got \[1, 4, 64, 64\]"),
        ((1, 3, 64, 64), (1, 64, 64), r"mask must be \[B, 1, H, W\]"),
        ((1, 3, 64, 64), (1, 1, 32, 64), "mask must have the image's batch and size"),
        ((2, 3, 64, 64), (1, 1, 64, 64), "mask must have the image's batch and size"),
    ],
)
def test_refuses_shapes_that_do_not_fit(image, mask, message):
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16, 16, 16, 16)))
    with pytest.raises(ValueError, match=message):
        vae.encode_condition(torch.zeros(image), torch.zeros(mask))


def test_refuses_a_condition_of_another_size_or_batch():
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae())
    condition = vae.encode_condition(*random_inputs(batch=2))
    with pytest.raises(ValueError, match="condition must have the latent's size"):
        vae.decode(torch.zeros(2, 4, 8, 8), condition)
    with pytest.raises(ValueError, match="condition must have batch 1 or 3, got 2"):
        vae.decode(torch.zeros(3, 4, 32, 24), condition)
    with pytest.raises(ValueError, match="plain diffusers AutoencoderKL, got HarmonyVAE"):
        HarmonyVAE.from_autoencoder_kl(vae)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_single_file_round_trip(tmp_path, dtype):
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae(layers=2)))
    save_harmony_vae(vae, tmp_path / "named_like_a_unet.safetensors", dtype=dtype, direction="invert", training={"step": 3})
    with safe_open(tmp_path / "named_like_a_unet.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["diffharmony.kind"] == "harmony_vae" and json.loads(metadata["diffharmony.training"]) == {"step": 3}
    again = load_harmony_vae(tmp_path / "named_like_a_unet.safetensors")
    assert again.direction == "invert" and again.dtype == torch.float32 and not again.training
    for name, tensor in vae.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.to(dtype).float())
    assert [entry.name for entry in tmp_path.iterdir()] == ["named_like_a_unet.safetensors"]


def test_saving_again_keeps_the_direction(tmp_path):
    save_harmony_vae(HarmonyVAE.from_autoencoder_kl(plain_vae()), tmp_path / "a.safetensors", direction="invert")
    save_harmony_vae(load_harmony_vae(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert load_harmony_vae(tmp_path / "b.safetensors").direction == "invert"


def test_a_host_that_saves_the_state_dict_loses_nothing(tmp_path):
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae()))
    vae.direction = "invert"
    save_file(state_with_metadata(vae), tmp_path / "saved.safetensors")
    again = load_harmony_vae(tmp_path / "saved.safetensors")
    assert again.config.norm_num_groups == 8 and again.direction == "invert"
    z = torch.randn(1, 4, 32, 24)
    assert torch.equal(again.decode(z, again.encode_condition(*random_inputs())).sample, vae.decode(z, vae.encode_condition(*random_inputs())).sample)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_with_its_config_under_the_plain_name(name):
    assert load_harmony_vae(DATA / f"condition_vae_{name}.weights.safetensors").config.norm_num_groups == 8


@pytest.mark.parametrize("weights_name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
@pytest.mark.parametrize("depth", ["the folder", "the archive"])
def test_loads_the_authors_folder(tmp_path, weights_name, depth):
    config, weights, _ = golden("small")
    folder = tmp_path / "condition_vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "ConditionVAE", "_diffusers_version": "0.18.0", **config}))
    if weights_name.endswith(".bin"):
        torch.save(weights, folder / weights_name)
    else:
        save_file(weights, folder / weights_name)
    vae = load_harmony_vae(folder if depth == "the folder" else tmp_path)
    assert all(torch.equal(vae.state_dict()[name], tensor) for name, tensor in weights.items())
    assert load_harmony_vae(folder / weights_name).config.norm_num_groups == 8  # the config beside it


def test_save_pretrained_and_attention_names_of_old_diffusers(tmp_path):
    vae = trained(HarmonyVAE.from_autoencoder_kl(plain_vae()))
    vae.save_pretrained(tmp_path / "new")
    assert torch.equal(load_harmony_vae(tmp_path / "new").latent_skip_conv.weight, vae.latent_skip_conv.weight)
    assert torch.equal(HarmonyVAE.from_pretrained(tmp_path / "new").latent_skip_conv.weight, vae.latent_skip_conv.weight)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in plain_vae().state_dict().items():
        for new_name, old_name in old.items():
            name = name.replace(f".{new_name}.", f".{old_name}.")
        renamed[name] = tensor
    (tmp_path / "old").mkdir()
    plain_vae().save_config(tmp_path / "old")
    torch.save(renamed, tmp_path / "old" / "diffusion_pytorch_model.bin")
    assert torch.equal(load_vae(tmp_path / "old").encoder.mid_block.attentions[0].to_q.weight, plain_vae().encoder.mid_block.attentions[0].to_q.weight)


class TestRefusals:
    def test_missing_path(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="looked in"):
            load_harmony_vae(tmp_path / "none.safetensors")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="config.json and diffusion_pytorch_model.safetensors or .*found nothing"):
            load_harmony_vae(tmp_path)

    def test_missing_parameters_are_named(self, tmp_path):
        config, weights, _ = golden("two_level")
        weights.pop("conditional_encoder.add_conv_in.bias")
        save_file(weights, tmp_path / "vae.safetensors", metadata={"diffharmony.config": json.dumps(config)})
        with pytest.raises(ValueError, match=r"1 missing \(conditional_encoder.add_conv_in.bias\)"):
            load_harmony_vae(tmp_path / "vae.safetensors")

    @settings(max_examples=20, deadline=None)
    @given(st.floats(0, 0.999))
    def test_cut_off_file(self, tmp_path_factory, share):
        folder = tmp_path_factory.mktemp("cut")
        save_harmony_vae(HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16,))), folder / "vae.safetensors")
        content = (folder / "vae.safetensors").read_bytes()
        (folder / "vae.safetensors").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match="must be a whole safetensors file"):
            load_harmony_vae(folder / "vae.safetensors")

    def test_pickle_with_code_is_never_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"conditional_encoder.x": Evil()}, tmp_path / "vae.bin")
        with pytest.raises(ValueError, match="weights_only=True"):
            load_harmony_vae(tmp_path / "vae.bin")
        assert not (tmp_path / "ran").exists()

    def test_a_config_is_needed_where_shapes_do_not_tell(self, tmp_path):
        save_file(HarmonyVAE.from_autoencoder_kl(plain_vae()).state_dict(), tmp_path / "vae.safetensors")
        with pytest.raises(ValueError, match=r"must come with its config .*got none and widths \[32, 64\]"):
            load_harmony_vae(tmp_path / "vae.safetensors")

    @pytest.mark.parametrize("config", [{"block_out_channels": 5}, {"down_block_types": ["Nope"]}, {"block_out_channels": [7]}])
    def test_a_config_that_describes_no_model(self, tmp_path, config):
        metadata = {"diffharmony.config": json.dumps(config)}
        save_file({"conditional_encoder.x": torch.zeros(1)}, tmp_path / "vae.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match="config of .*vae.safetensors must describe a model"):
            load_harmony_vae(tmp_path / "vae.safetensors")

    def test_a_weight_beyond_half_precision(self, tmp_path):
        vae = HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16,)))
        vae.decoder.conv_in.weight.data[0, 0, 0, 0] = 1e5
        with pytest.raises(ValueError, match="decoder.conv_in.weight must be finite in torch.float16"):
            save_harmony_vae(vae, tmp_path / "vae.safetensors")
        assert not list(tmp_path.iterdir())

    def test_saving(self, tmp_path):
        vae = HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16,)))
        with pytest.raises(ValueError, match="end in .safetensors"):
            save_harmony_vae(vae, tmp_path / "vae.ckpt")
        with pytest.raises(FileNotFoundError, match="folder of 'vae.safetensors' must exist"):
            save_harmony_vae(vae, tmp_path / "none" / "vae.safetensors")
        with pytest.raises(ValueError, match="vae must be a HarmonyVAE, got AutoencoderKL"):
            save_harmony_vae(plain_vae(), tmp_path / "vae.safetensors")
        with pytest.raises(ValueError, match="direction must be one of"):
            save_harmony_vae(vae, tmp_path / "vae.safetensors", direction="sideways")
        assert not list(tmp_path.iterdir())


def test_serves_diffusers_pipelines_as_their_vae():
    assert issubclass(HarmonyVAE, AutoencoderKL)  # what pipelines check
    vae = HarmonyVAE.from_autoencoder_kl(plain_vae(widths=(16, 16, 16, 16)))
    pipeline = StableDiffusionInpaintPipeline(vae, None, None, None, None, None, None, requires_safety_checker=False)
    assert pipeline.vae_scale_factor == 8
    assert vae.decode(torch.zeros(1, 4, 2, 2), return_dict=False)[0].shape == (1, 3, 16, 16)
