"""The refinement stage: golden parity, names, files and refusals, any size, its place in harmonize (SPEC §9, §10)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file

from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.common.images import tensor_to_pil
from diffharmony.diffusion import DiffHarmonyPipeline, harmonize, load_unet
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.refinement import HarmonyRefinement, load_refinement, refine, save_refinement
from diffharmony.refinement.stage import mask_to_stage_size, to_stage_size
from diffharmony.tests.made.refinement import make_models, small_refinement, triple

DATA = Path(__file__).parents[2] / "data"
GOLDEN = ("released", "defaults")


def golden(name):
    """(config as the authors' file says it, weights, expected), made by running the authors' class on made-up weights."""
    path = DATA / f"refinement_{name}.weights.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    return config, load_file(path), load_file(DATA / f"refinement_{name}.expected.safetensors")


def authors_folder(folder, name="released", suffix=".safetensors"):
    """A diffusers folder as the authors' save_pretrained writes it."""
    config, weights, _ = golden(name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / f"diffusion_pytorch_model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    return folder


def released_names():
    """The parameters of the authors' base model, from the layout: 4 levels, 2 residual blocks down and 3 up, attention in the middle."""
    names = {f"{layer}.{kind}" for layer in ("conv_in", "conv_norm_out", "conv_out") for kind in ("weight", "bias")}

    def resnet(prefix, shortcut):
        layers = ("norm1", "conv1", "norm2", "conv2", *(("conv_shortcut",) if shortcut else ()))
        names.update(f"{prefix}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))

    for level in range(4):
        for index in range(2):
            resnet(f"down_blocks.{level}.resnets.{index}", shortcut=level in (1, 2) and index == 0)
        for index in range(3):  # each takes a skip feature besides, so its width changes
            resnet(f"up_blocks.{level}.resnets.{index}", shortcut=True)
        if level < 3:
            samplers = (f"down_blocks.{level}.downsamplers", f"up_blocks.{level}.upsamplers")
            names.update(f"{sampler}.0.conv.{kind}" for sampler in samplers for kind in ("weight", "bias"))
    for index in range(2):
        resnet(f"mid_block.resnets.{index}", shortcut=False)
    attention = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    names.update(f"mid_block.attentions.0.{layer}.{kind}" for layer in attention for kind in ("weight", "bias"))
    return names


class TestModel:
    @pytest.mark.parametrize("name", GOLDEN)
    def test_golden_parity(self, name):
        config, weights, expected = golden(name)
        model = HarmonyRefinement(**{key: value for key, value in config.items() if key != "_class_name"}).eval()
        model.load_state_dict(weights)
        with torch.no_grad():
            refined = model(expected["sample"]).sample
        torch.testing.assert_close(refined, expected["refined"], rtol=0, atol=1e-5)

    def test_parameter_names_are_the_authors(self):
        with torch.device("meta"):
            model = HarmonyRefinement(input_residual=True)
        assert set(model.state_dict()) == released_names()
        assert model.size == (256, 256) and model.conv_in.weight.shape == (128, 7, 3, 3)

    def test_the_residual_is_the_harmonized_image(self):
        with_residual, without = small_refinement(), small_refinement(input_residual=False)
        harmonized, composite, mask = triple(32, 48, batch=2)
        stacked = with_residual.stack(harmonized, composite, mask)
        with torch.no_grad():
            torch.testing.assert_close(with_residual(stacked).sample, without(stacked).sample + harmonized, rtol=0, atol=1e-6)
            torch.nn.init.zeros_(with_residual.conv_out.weight)
            torch.nn.init.zeros_(with_residual.conv_out.bias)
            assert torch.equal(with_residual(stacked).sample, harmonized)

    def test_input_order(self):
        harmonized, composite, mask = triple(4, 4)
        orders = {3: [harmonized], 4: [harmonized, mask], 6: [harmonized, composite], 7: [harmonized, mask, composite]}
        for channels, parts in orders.items():
            assert torch.equal(small_refinement(channels).stack(harmonized, composite, mask), torch.cat(parts, dim=1))
        with pytest.raises(ValueError, match="mask must be given to a refinement model of 7 input channels, got None"):
            small_refinement().stack(harmonized, composite)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_reach_every_parameter_and_the_input(self, checkpointing):
        model = small_refinement().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        stacked = model.stack(*triple(32, 32)).requires_grad_()
        model(stacked).sample.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            # a key's bias moves all of a row's scores alike, so attention does not see it
            assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name
        assert stacked.grad[:, 3:].abs().max() > 0

    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(in_channels=5), "in_channels must be one of 3, 4, 6, 7, got 5"),
            (dict(out_channels=4), "out_channels must be 3, got 4"),
            (dict(down_block_types=("DownBlock2D",)), r"must be one per width \(2\), got 1 and 2"),
            (dict(sample_size=33), "sample_size must be a multiple of 2 for 2 levels, got 33"),
        ],
    )
    def test_configs_that_describe_no_model(self, changes, message):
        with pytest.raises(ValueError, match=message):
            small_refinement(**changes)

    @pytest.mark.parametrize("shape", [(1, 6, 32, 32), (7, 32, 32), (1, 7, 32, 31)])
    def test_inputs_that_do_not_fit(self, shape):
        with pytest.raises(ValueError, match="sample must be .B, 7, H, W. with sides that are multiples of 2, got"):
            small_refinement()(torch.zeros(shape))


class TestRefine:
    def test_at_its_own_size_it_is_the_model(self):
        model = small_refinement()
        harmonized, composite, mask = triple(32, 32, batch=2)
        hard = (mask >= 0.5).float()
        with torch.no_grad():
            expected = model(torch.cat([harmonized, hard, composite], dim=1)).sample.clamp(-1, 1)
        # one by one and together: another order of summation
        torch.testing.assert_close(refine(model, harmonized, composite, mask), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(refine(model, harmonized, composite, mask, keep_detail=False), expected, rtol=0, atol=1e-5)
        assert not torch.allclose(expected, harmonized, atol=0.05)

    def test_at_another_size_the_change_is_brought_up(self):
        model = small_refinement()
        harmonized, composite, mask = triple(70, 50)
        small_ones = [TF.resize(image, [32, 32], antialias=True).clamp(-1, 1) for image in (harmonized, composite)]
        hard = mask_to_stage_size(mask, (32, 32))
        with torch.no_grad():
            refined = model(torch.cat([small_ones[0], hard, small_ones[1]], dim=1)).sample.clamp(-1, 1)
        change = TF.resize(refined - small_ones[0], [70, 50], interpolation=TF.InterpolationMode.BICUBIC, antialias=True)
        torch.testing.assert_close(refine(model, harmonized, composite, mask), (harmonized + change).clamp(-1, 1), rtol=0, atol=1e-5)
        enlarged = TF.resize(refined, [70, 50], interpolation=TF.InterpolationMode.BICUBIC, antialias=True).clamp(-1, 1)
        torch.testing.assert_close(refine(model, harmonized, composite, mask, keep_detail=False), enlarged, rtol=0, atol=1e-5)

    def test_a_stage_that_changes_nothing_keeps_every_detail(self):
        model = small_refinement()
        torch.nn.init.zeros_(model.conv_out.weight)
        torch.nn.init.zeros_(model.conv_out.bias)
        for size in ((32, 32), (70, 50), (5, 9)):
            harmonized, composite, mask = triple(*size)
            assert torch.equal(refine(model, harmonized, composite, mask), harmonized)

    @settings(max_examples=20, deadline=None)
    @given(height=st.integers(1, 90), width=st.integers(1, 90), batch=st.integers(1, 2), channels=st.sampled_from([3, 4, 6, 7]),
           paste=st.booleans(), keep_detail=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    def test_any_size_comes_back_at_its_size(self, height, width, batch, channels, paste, keep_detail, dtype):
        harmonized, composite, mask = triple(height, width, batch, seed=height * 100 + width)
        harmonized, composite = harmonized.to(dtype), composite.to(dtype)
        out = refine(small_refinement(channels), harmonized, composite, mask, paste_background=paste, keep_detail=keep_detail)
        assert out.shape == harmonized.shape and out.dtype == dtype
        assert out.min() >= -1 and out.max() <= 1
        if paste:
            outside = (mask == 0).expand_as(out)
            assert torch.equal(out[outside], composite[outside])

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
    def test_half_precision_is_close(self, dtype, tolerance):
        inputs = triple(40, 50)
        expected = refine(small_refinement(), *inputs)
        torch.testing.assert_close(refine(small_refinement().to(dtype), *inputs), expected, rtol=0, atol=tolerance)

    def test_one_composite_and_mask_serve_a_batch(self):
        model, calls = small_refinement(), []
        harmonized, _, _ = triple(40, 40, batch=2)
        _, composite, mask = triple(40, 40, seed=1)
        out = refine(model, harmonized, composite, mask, progress=lambda *call: calls.append(call))
        for index in range(2):
            torch.testing.assert_close(out[index : index + 1], refine(model, harmonized[index : index + 1], composite, mask))
        assert calls == [(1, 2), (2, 2)]

    @settings(max_examples=25, deadline=None)
    @given(mask=arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))), side=st.sampled_from([8, 32, 64]))
    def test_masks_shrink_as_pillow_shrinks_black_and_white(self, mask, side):
        # powers of two, as 256 is: for other sides a pixel's centre can fall on a border, where rounding decides
        pillow = np.asarray(Image.fromarray(mask).convert("1").resize((side, side), Image.Resampling.NEAREST))
        ours = mask_to_stage_size(torch.from_numpy(mask.astype(np.float32))[None, None], (side, side))[0, 0]
        assert np.array_equal(ours.numpy() > 0, pillow)

    @settings(max_examples=15, deadline=None)
    @given(height=st.integers(2, 80), width=st.integers(2, 80))
    def test_images_shrink_as_pillow_shrinks_them(self, height, width):
        image = TF.resize(triple(9, 9)[0], [height, width], antialias=True)
        picture = tensor_to_pil(image)[0]
        ours = tensor_to_pil(to_stage_size(TF.to_tensor(picture)[None] * 2 - 1, (32, 32)))[0]
        pillow = picture.resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(ours, dtype=int) - np.asarray(pillow, dtype=int)).max() <= 1

    def test_what_does_not_fit(self):
        model = small_refinement()
        harmonized, composite, mask = triple(40, 30)
        with pytest.raises(ValueError, match=r"harmonized must be as large as composite \(30 x 40 px, width x height\), got 30 x 20 px"):
            refine(model, harmonized[..., :20, :], composite, mask)
        with pytest.raises(ValueError, match="harmonized must lie in .-1, 1., got values from .* Scale 8-bit values"):
            refine(model, (harmonized + 1) * 127.5, composite, mask)
        with pytest.raises(ValueError, match="composite must lie in .-1, 1., got values from nan"):
            refine(model, harmonized, composite * torch.nan, mask)
        with pytest.raises(ValueError, match=r"composite and mask must have batch 1, got 2"):
            refine(model, harmonized, composite.repeat(2, 1, 1, 1), mask)
        with pytest.raises(ValueError, match="mask must be as large as composite"):
            refine(model, harmonized, composite, mask[..., :20])

    def test_overflow_is_not_passed_on(self):
        model = small_refinement().half()
        model.conv_out.weight.data.fill_(60000)
        with pytest.raises(RuntimeError, match="refined image must be finite, got NaN or infinity in torch.float16"):
            refine(model, *triple(32, 32))


class TestFiles:
    @pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
    @pytest.mark.parametrize("name", GOLDEN)
    def test_the_authors_folder(self, tmp_path, name, suffix):
        folder = authors_folder(tmp_path / "archive" / "refinement", name, suffix)
        _, _, expected = golden(name)
        # the folder, the archive around it, and the weights in it
        for path in (folder, folder.parent, folder / f"diffusion_pytorch_model{suffix}"):
            model = load_refinement(path)
            assert not model.training
            with torch.no_grad():
                torch.testing.assert_close(model(expected["sample"]).sample, expected["refined"], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_round_trip(self, tmp_path, dtype):
        model = small_refinement(4, sample_size=(32, 64), input_residual=False)
        save_refinement(model, tmp_path / "größe 1.safetensors", dtype=dtype, training={"steps": 3})
        checkpoint = read_checkpoint(tmp_path / "größe 1.safetensors")
        assert checkpoint.kind == "refinement" and checkpoint.training == {"steps": 3}
        assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {dtype}
        loaded = load_refinement(tmp_path / "größe 1.safetensors", torch.bfloat16)
        assert loaded.dtype == torch.bfloat16 and loaded.size == (32, 64) and not loaded.config.input_residual
        loaded = load_refinement(tmp_path / "größe 1.safetensors")
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor.to(dtype).float()), name

    def test_diffusers_own_save_and_load(self, tmp_path):
        model = small_refinement()
        model.save_pretrained(tmp_path / "folder")
        for loaded in (load_refinement(tmp_path / "folder"), HarmonyRefinement.from_pretrained(tmp_path / "folder")):
            assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True))
        assert type(loaded.config.block_out_channels) in (tuple, list) and loaded.size == (32, 32)

    def test_weights_without_a_config(self, tmp_path):
        _, weights, _ = golden("released")
        save_file(weights, tmp_path / "bare.safetensors")
        with pytest.raises(ValueError, match=r"must come with its config .* got none and widths \(8, 8, 16\)"):
            load_refinement(tmp_path / "bare.safetensors")
        published = HarmonyRefinement(block_out_channels=(64, 128, 256, 256), in_channels=4).half()
        save_file(published.state_dict(), tmp_path / "small.safetensors")
        loaded = load_refinement(tmp_path / "small.safetensors", torch.float16)
        found = {name: loaded.config[name] for name in ("norm_eps", "downsample_padding", "input_residual", "attention_head_dim")}
        assert found == {"norm_eps": 1e-6, "downsample_padding": 0, "input_residual": True, "attention_head_dim": None}
        assert loaded.config.in_channels == 4 and loaded.size == (256, 256)

    def test_damaged_and_incomplete_files_are_refused(self, tmp_path):
        folder = authors_folder(tmp_path / "refinement")
        weights = folder / "diffusion_pytorch_model.safetensors"
        whole, tensors = weights.read_bytes(), golden("released")[1]  # not of this file: it is mapped, and cut below
        weights.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="must be a whole safetensors file"):
            load_refinement(folder)
        del tensors["mid_block.resnets.1.conv2.bias"]
        save_file(tensors, weights)
        with pytest.raises(ValueError, match="must hold exactly the .* 1 missing .mid_block.resnets.1.conv2.bias"):
            load_refinement(folder)
        weights.write_bytes(whole)
        config = json.loads((folder / "config.json").read_text())
        for changes, message in (
            ({"block_out_channels": [8, 16, 16]}, "of another shape"),
            ({"unknown_field": 1}, "config of .* must describe a model, got one that cannot be built .*unknown_field"),
            ({"in_channels": 9}, "in_channels must be one of 3, 4, 6, 7, got 9"),
        ):
            (folder / "config.json").write_text(json.dumps({**config, **changes}))
            with pytest.raises(ValueError, match=message):
                load_refinement(folder)
        shutil.move(folder / "config.json", tmp_path / "elsewhere.json")
        with pytest.raises(FileNotFoundError, match="refinement folder must hold config.json and .* found diffusion_pytorch_model"):
            load_refinement(folder)
        with pytest.raises(FileNotFoundError, match="'none.safetensors' must exist, looked in"):
            load_refinement(tmp_path / "none.safetensors")

    def test_a_pickle_that_runs_code_is_not_run(self, tmp_path):
        folder = authors_folder(tmp_path / "refinement", suffix=".bin")
        torch.save(Touch(tmp_path / "touched"), folder / "diffusion_pytorch_model.bin")
        with pytest.raises(ValueError, match="cannot be read with weights_only=True"):
            load_refinement(folder)
        assert not (tmp_path / "touched").exists()

    def test_what_cannot_be_saved(self, tmp_path):
        with pytest.raises(ValueError, match="model must be a HarmonyRefinement, got Linear"):
            save_refinement(torch.nn.Linear(1, 1), tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="dtype must be torch.float16 or torch.float32, got torch.bfloat16"):
            save_refinement(small_refinement(), tmp_path / "a.safetensors", dtype=torch.bfloat16)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """vae.safetensors, unet.safetensors and refinement.safetensors, with made-up weights."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def parts(models):
    """(vae, unet, refinement)"""
    return (
        load_harmony_vae(models / "vae.safetensors"),
        load_unet(models / "unet.safetensors"),
        load_refinement(models / "refinement.safetensors"),
    )


class TestHarmonize:
    def test_the_stage_runs_on_the_decoded_image_before_pasting(self, parts):
        vae, unet, model = parts
        _, composite, mask = triple(48, 64)
        decoded = harmonize(vae, unet, composite, mask, 2, detail="decoded", paste_background=False)
        expected = refine(model, decoded, composite, mask)
        whole = harmonize(vae, unet, composite, mask, 2, detail="decoded", paste_background=False, refinement=model)
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)
        pasted = harmonize(vae, unet, composite, mask, 2, detail="decoded", refinement=model)
        torch.testing.assert_close(pasted, mask * expected + (1 - mask) * composite, rtol=0, atol=1e-6)
        assert (whole - decoded).abs().max() > 0.05

    def test_in_the_pipeline(self, parts):
        vae, unet, model = parts
        _, composite, mask = triple(48, 64)
        pipe = DiffHarmonyPipeline(vae=vae, unet=unet)
        pipe.set_progress_bar_config(disable=True)
        (found,) = pipe(composite, mask, 2, refinement=model, output_type="pt", return_dict=False)
        assert torch.equal(found, harmonize(vae, unet, composite, mask, 2, refinement=model))
        assert not torch.equal(found, pipe(composite, mask, 2, output_type="pt").images)

    def test_beside_a_smaller_working_size(self, parts):
        vae, unet, model = parts
        _, composite, mask = triple(100, 150)
        for keep_detail in (True, False):
            out = harmonize(vae, unet, composite, mask, 1, size=64, keep_detail=keep_detail, refinement=model)
            assert out.shape == composite.shape and torch.equal(out[(mask == 0).expand_as(out)], composite[(mask == 0).expand_as(out)])
