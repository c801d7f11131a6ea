"""What a training run begins from: folders, files in both layouts; widening."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors.torch import save_file

from diffharmony.common import sd_checkpoint
from diffharmony.common.weights.layout import VAE
from diffharmony.diffusion import load_unet
from diffharmony.diffusion.convert import Sources, convert_models
from diffharmony.diffusion.unet import widen_input
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.tests.made.pretrained import (
    empty_prompt,
    make_text_encoder,
    make_unet,
    make_vae,
    run_options,
    same_config,
    same_weights,
    write_data,
    write_pipeline,
)  # fmt: skip
from diffharmony.tests.made.sd_checkpoint import original_text_encoder, original_unet, original_vae, take_for_stable_diffusion
from diffharmony.train import unet as train_unet
from diffharmony.train.checks import resolve_overrides
from diffharmony.train.pretrained import find_pretrained, load_pretrained_unet, load_pretrained_vae


@pytest.fixture(scope="module")
def text_encoder():
    return make_text_encoder()


@pytest.fixture(scope="module")
def prompt(text_encoder):
    return empty_prompt(text_encoder)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, text_encoder):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), text_encoder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def small_stable_diffusion(monkeypatch, text_encoder):
    take_for_stable_diffusion(monkeypatch, make_vae(), make_unet(), text_encoder)


class TestOriginalLayout:
    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_a_whole_checkpoint_gives_vae_unet_and_empty_prompt(self, tmp_path, monkeypatch, text_encoder, prompt, suffix):
        vae, unet = make_vae(layers=2), make_unet(layers=2)
        take_for_stable_diffusion(monkeypatch, vae, unet, text_encoder)
        tensors = {**original_vae(vae), **original_unet(unet), **original_text_encoder(text_encoder)}
        tensors |= {f"model_ema.diffusion_model{index}": torch.zeros(1) for index in range(120)} | {"betas": torch.zeros(1000)}
        path = tmp_path / f"v1-5{suffix}"
        if suffix == ".ckpt":
            torch.save({"state_dict": tensors, "global_step": 7, "epoch": 1}, path)
        else:
            save_file(tensors, path)
        found_vae = load_pretrained_vae(path)
        assert type(found_vae) is AutoencoderKL and same_weights(vae, found_vae) and same_config(vae, found_vae)
        found = load_pretrained_unet(path, direction="invert")
        assert same_weights(unet, found) and same_config(unet, found)
        assert (found.direction, found.prediction_type) == ("invert", "epsilon")
        torch.testing.assert_close(found.empty_prompt_embeds, prompt, rtol=0, atol=0)
        written = convert_models(Sources(unet=path, vae=path), tmp_path / "out", dtype=torch.float32)
        assert same_weights(unet, load_unet(written["unet"]))
        assert same_weights(vae.decoder, load_harmony_vae(written["harmony_vae"]).decoder)

    def test_stable_diffusion_1_5_inpainting_by_its_real_shapes(self):
        """Full size, without memory: the names are those of the published file, and the configurations those of its diffusers form."""
        with torch.device("meta"):
            unet = make_unet(9, (320, 640, 1280, 1280), (True, True, True, False), layers=2, context=768)
            vae = make_vae((128, 256, 512, 512), layers=2)
        tensors = {**original_unet(unet), **original_vae(vae)}
        assert len(tensors) == 686 + 248
        assert infer_diffusers_model_type(tensors) == "inpainting"
        for name in ("output_blocks.5.2.conv.weight", "output_blocks.2.1.conv.bias", "input_blocks.8.1.proj_in.weight"):
            assert f"model.diffusion_model.{name}" in tensors
        for name in ("decoder.up.3.upsample.conv.weight", "encoder.down.2.downsample.conv.bias", "decoder.mid.attn_1.proj_out.weight"):
            assert f"first_stage_model.{name}" in tensors
        for model, convert in ((unet, sd_checkpoint.convert_unet), (vae, sd_checkpoint.convert_vae)):
            config, found = convert(tensors, Path("v1-5-inpainting"))
            with torch.device("meta"):
                again = type(model).from_config(config)
            assert same_config(model, again)
            expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
            assert {name: tensor.shape for name, tensor in found.items()} == expected

    def test_a_vae_alone_with_what_its_own_training_left(self, tmp_path, small_stable_diffusion):
        vae = make_vae()
        rest = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
        torch.save({"state_dict": {**original_vae(vae, ""), **rest}}, tmp_path / "vae-ft.ckpt")
        assert same_weights(vae, load_pretrained_vae(tmp_path / "vae-ft.ckpt"))

    def test_half_precision_is_trained_in_float32(self, tmp_path, small_stable_diffusion):
        vae, unet = make_vae(), make_unet()
        tensors = {**original_vae(vae), **original_unet(unet)}
        save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "half.safetensors")
        assert same_weights(vae.half().float(), load_pretrained_vae(tmp_path / "half.safetensors"))
        assert {parameter.dtype for parameter in load_unet(tmp_path / "half.safetensors").parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"conditioner.embedders.0.x": torch.zeros(1)}, "must be a Stable Diffusion 1.x checkpoint, got one of .*XL's kind"),
            ({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(3)}, "1 parameters besides, such as .*label_emb"),
            ({"model.diffusion_model.middle_block.1.proj_in.weight": torch.zeros(64, 64)}, "1 of another shape .mid_block.attentions.0.proj_in"),
            ({"model.diffusion_model.out.2.weight": None}, "1 missing .conv_out.weight"),
            ({"model.diffusion_model.time_embed.0.bias": None}, "1 missing .time_embedding.linear_1.bias"),
            ({"cond_stage_model.transformer.text_model.final_layer_norm.bias": None}, "tensors of a CLIPTextModel .* 1 missing"),
        ],
    )
    def test_other_families_and_damaged_files(self, tmp_path, small_stable_diffusion, text_encoder, change, message):
        tensors = {**original_unet(make_unet()), **original_text_encoder(text_encoder), **change}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_pretrained_unet(tmp_path / "model.safetensors", direction="harmonize")

    def test_a_vae_with_other_parts(self, tmp_path):
        save_file({**original_vae(make_vae()), "first_stage_model.encoder.time_conv.weight": torch.ones(1)}, tmp_path / "vae.safetensors")
        with pytest.raises(ValueError, match="1 parameters besides, such as encoder.time_conv.weight"):
            load_pretrained_vae(tmp_path / "vae.safetensors")

    def test_without_a_text_encoder_the_empty_prompt_is_asked_for(self, tmp_path, small_stable_diffusion, prompt):
        save_file(original_unet(make_unet()), tmp_path / "unet.safetensors")
        with pytest.raises(ValueError, match="must come with empty_prompt_embeds, or with its text_encoder/.*--empty-prompt FILE"):
            load_pretrained_unet(tmp_path / "unet.safetensors", direction="harmonize")
        save_file({"empty_prompt_embeds": prompt}, tmp_path / "prompt.safetensors")
        found = load_pretrained_unet(tmp_path / "unet.safetensors", direction="harmonize", empty_prompt=tmp_path / "prompt.safetensors")
        assert torch.equal(found.empty_prompt_embeds, prompt)

    def test_each_part_says_what_the_other_is(self, tmp_path):
        save_file(original_vae(make_vae()), tmp_path / "vae.safetensors")
        with pytest.raises(ValueError, match="must be a UNet .*got a VAE in the original Stable Diffusion layout"):
            load_pretrained_unet(tmp_path / "vae.safetensors", direction="harmonize")
        save_file(original_unet(make_unet()), tmp_path / "unet.safetensors")
        with pytest.raises(ValueError, match="must be a VAE, plain or Harmony-VAE, in diffusers' or the original layout"):
            load_pretrained_vae(tmp_path / "unet.safetensors")


class TestFolders:
    def test_a_pipeline_or_a_part_of_it(self, pipeline, prompt):
        for place in (pipeline, pipeline / "unet"):
            found = load_pretrained_unet(place, direction="harmonize")
            assert same_weights(make_unet(), found) and found.prediction_type == "v_prediction"
            torch.testing.assert_close(found.empty_prompt_embeds, prompt, rtol=0, atol=0)
        for place in (pipeline, pipeline / "vae"):
            assert same_weights(make_vae(), load_pretrained_vae(place))

    def test_relative_paths_and_half_precision_files(self, tmp_path, monkeypatch):
        make_vae().half().save_pretrained(tmp_path / "größe 3" / "vae", variant="fp16")
        monkeypatch.chdir(tmp_path / "größe 3")
        assert same_weights(make_vae().half().float(), load_pretrained_vae("vae"))
        monkeypatch.chdir("vae")
        assert same_weights(make_vae().half().float(), load_pretrained_vae(Path(".")))

    def test_a_local_path_wins_over_a_hub_id(self, tmp_path, monkeypatch):
        make_vae(seed=5).save_pretrained(tmp_path / "acme" / "pipeline")
        monkeypatch.chdir(tmp_path)
        assert same_weights(make_vae(seed=5), load_pretrained_vae("acme/pipeline"))

    @pytest.mark.parametrize("name", ["nowhere/at/all", "models/vae.safetensors", "./vae", "~/no-such-folder-here", "vae", "a/b:c:d"])
    def test_a_path_that_does_not_exist_says_where_it_was_looked_for(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        expected = (tmp_path / Path(name).expanduser()).parent
        with pytest.raises(FileNotFoundError) as error:
            find_pretrained(name, VAE, "init")
        assert "init must be a folder or file that exists, or a model on the Hub" in str(error.value)
        assert str(expected) in str(error.value)

    def test_none(self):
        with pytest.raises(ValueError, match="vae must be a VAE to begin from, got None. Pass --vae with a folder"):
            load_pretrained_vae(None, "vae")


class TestWidening:
    def test_mask_and_condition_change_nothing_at_first(self):
        narrow = make_unet(4)
        wide = widen_input(copy.deepcopy(narrow))
        assert wide.config.in_channels == 9 and wide.conv_in.weight.shape == (32, 9, 3, 3)
        assert torch.equal(wide.conv_in.weight[:, :4], narrow.conv_in.weight) and not wide.conv_in.weight[:, 4:].any()
        prompt = torch.randn(1, 77, 64)
        for batch, size in ((1, 8), (2, 8), (2, 16), (3, 24)):
            latent, mask, condition = torch.randn(batch, 4, size, size), torch.rand(batch, 1, size, size), torch.randn(batch, 4, size, size)
            expected = narrow(latent, 500, encoder_hidden_states=prompt.expand(batch, -1, -1)).sample
            found = wide(torch.cat([latent, mask, 50 * condition], 1), 500, encoder_hidden_states=prompt.expand(batch, -1, -1)).sample
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("source", ["folder", "pipeline", "original"])
    def test_only_when_asked(self, tmp_path, small_stable_diffusion, text_encoder, source):
        start = write_pipeline(tmp_path / "sd", text_encoder, in_channels=4)
        if source == "folder":
            start = start / "unet"
        if source == "original":
            start = tmp_path / "sd.safetensors"
            save_file({**original_unet(make_unet(4)), **original_text_encoder(text_encoder)}, start)
        with pytest.raises(ValueError, match="must have 9 input channels .* got 4 and 4. .*--widen-input"):
            load_pretrained_unet(start, direction="harmonize")
        found = load_pretrained_unet(start, direction="harmonize", widen=True)
        assert same_weights(widen_input(make_unet(4)), found) and found.empty_prompt_embeds is not None

    def test_a_nine_channel_unet_is_not_widened(self, pipeline):
        with pytest.raises(ValueError, match="4 output channels to be widened to 9, got 9 and 4. Leave --widen-input out"):
            load_pretrained_unet(pipeline, direction="harmonize", widen=True)
        with pytest.raises(ValueError, match="to be widened to 9, got 9"):
            widen_input(make_unet(9))

    def test_the_command_trains_what_it_widened(self, data, tmp_path, text_encoder):
        start = write_pipeline(tmp_path / "sd", text_encoder, in_channels=4)
        config = train_unet.UNetTraining(init=str(start), vae=str(start), widen_input=True, **run_options(data, tmp_path / "run"))
        trained = load_unet(train_unet.main(config)["checkpoint"])
        assert trained.conv_in.weight[:, 4].any() and trained.conv_in.weight[:, 5:].any()
        with pytest.raises(ValueError, match="must have 9 input channels"):
            train_unet.main(replace(config, widen_input=False, run=replace(config.run, out=tmp_path / "no")))
        assert not (tmp_path / "no").exists()
        for option, message in (("--widen-input", "widen_input must go with init"), ("--empty-prompt=x", "empty_prompt must go with init")):
            with pytest.raises(ValueError, match=message):
                resolve_overrides(replace(config, init=None), [option])
