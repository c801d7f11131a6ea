"""What a checkpoint is: every kind of file at every loader, and files whose metadata says something else."""

import itertools

import pytest
import torch
from safetensors.torch import save_file

from diffharmony.classifier import HarmonyClassifier, load_harmony_classifier
from diffharmony.common.checkpoint import KINDS, identify, open_model, read_checkpoint, write_checkpoint
from diffharmony.common.weights.layout import VAE
from diffharmony.diffusion import load_unet
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, load_vae
from diffharmony.refinement import load_refinement
from diffharmony.tests.made.pretrained import make_unet, make_vae
from diffharmony.tests.made.refinement import small_refinement
from diffharmony.tests.made.sd_checkpoint import original_unet, original_vae

# Names that tell a kind, and what it is called; None is none.
FILES = {
    "harmony_vae": (("conditional_encoder.x", "encoder.down_blocks.x"), "a Harmony-VAE (pass it as the VAE)"),
    "autoencoder": (("encoder.down_blocks.x",), "a plain VAE (no conditional_encoder.*"),
    "original_vae": (("first_stage_model.x",), "a VAE in the original Stable Diffusion layout"),
    "original_unet": (("model.diffusion_model.x",), "a UNet in the original Stable Diffusion layout"),
    "stable_diffusion": (("model.diffusion_model.x", "first_stage_model.x"), "a Stable Diffusion checkpoint"),
    "unet": (("time_embedding.x", "conv_norm_out.x"), "a UNet (pass it as the UNet)"),
    "refinement": (("conv_norm_out.x",), "a refinement model (pass it as the refinement stage)"),
    "classifier": (("layer1.x",), "a classifier (pass it as the classifier)"),
    None: (("x", "y"), "2 tensors such as x, y"),
}
# What each loader wants, the kinds that it takes, and what to pass it.
LOADERS = {
    load_harmony_vae: ("a Harmony-VAE", {"harmony_vae"}, "train-vae"),
    load_vae: ("a VAE, plain or Harmony-VAE", {"harmony_vae", "autoencoder", "original_vae", "stable_diffusion"}, "train-vae"),
    load_unet: ("a UNet", {"unet", "original_unet", "stable_diffusion"}, "train-unet"),
    load_refinement: ("a refinement model", {"refinement"}, "train-refinement"),
    load_harmony_classifier: ("a harmony classifier", {"classifier"}, "train-classifier"),
}


def write(path, kind, label=None):
    tensors = {name: torch.zeros(1) for name in FILES[kind][0]}
    save_file(tensors, path) if label is None else write_checkpoint(path, tensors, kind=label, config={})
    return path


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("load", LOADERS)
def test_every_kind_at_every_loader(tmp_path, load, kind):
    wanted, taken, advice = LOADERS[load]
    with pytest.raises(ValueError) as error:  # what is taken is incomplete
        load(write(tmp_path / "named_like_a_unet.safetensors", kind))
    message = str(error.value)
    assert (f"got {FILES[kind][1]}" in message) == (kind not in taken), message
    if kind not in taken:
        assert f"must be {wanted}" in message and advice in message


@pytest.mark.parametrize("load", LOADERS)
def test_files_that_are_not_what_their_metadata_says(tmp_path, load):
    for label, kind in itertools.product(KINDS, FILES):
        if label != kind:
            with pytest.raises(ValueError) as error:
                load(write(tmp_path / "file.safetensors", kind, label))
            assert f"must hold what its metadata says, diffharmony.kind {label!r}, got {FILES[kind][1]}" in str(error.value)


def test_whole_models_are_what_they_are():
    vae, unet = make_vae(), make_unet()
    for kind, tensors in (
        ("autoencoder", vae.state_dict()),
        ("harmony_vae", HarmonyVAE.from_autoencoder_kl(vae).state_dict()),
        ("unet", unet.state_dict()),
        ("refinement", small_refinement().state_dict()),
        ("classifier", HarmonyClassifier("small", widths=(8,)).state_dict()),
        ("original_vae", original_vae(vae)),
        ("original_vae", original_vae(vae, "")),
        ("original_unet", original_unet(unet)),
        ("stable_diffusion", {**original_unet(unet), **original_vae(vae)}),
    ):
        assert identify(tensors) == kind


@pytest.mark.parametrize("options", [
    {"safe_serialization": True}, {"safe_serialization": False}, {"safe_serialization": True, "max_shard_size": "300KB"},
    {"safe_serialization": False, "max_shard_size": "300KB"}, {"variant": "fp16"}, {"variant": "fp16", "max_shard_size": "300KB"},
], ids=str)
def test_diffusers_folders_of_every_form(tmp_path, options):
    vae = make_vae()
    vae.save_pretrained(tmp_path / "vae", **options)
    for path in (tmp_path / "vae", tmp_path):
        checkpoint, config = open_model(path, VAE)
        assert config["block_out_channels"] == [32, 64]
        assert checkpoint.tensors.keys() == vae.state_dict().keys()
        assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in checkpoint.tensors.items())


@pytest.mark.parametrize("name", ["U.SAFETENSORS", "u.sft", "u.Sft"])
def test_suffixes_that_the_host_offers(tmp_path, name):
    tensors = {"time_embedding.x": torch.ones(2)}
    write_checkpoint(tmp_path / name, tensors, kind="unet", config={})
    assert read_checkpoint(tmp_path / name).kind == "unet"


def test_without_values_shapes_and_dtypes_stay(tmp_path):
    tensors = {name: torch.ones(2, 3, dtype=dtype) for name, dtype in (("a", torch.float16), ("b", torch.float32), ("c", torch.int64))}
    write_checkpoint(tmp_path / "u.safetensors", tensors, kind="unet", config={})
    found = read_checkpoint(tmp_path / "u.safetensors", values=False).tensors
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {name: (t.shape, t.dtype) for name, t in tensors.items()}


@pytest.mark.parametrize("name", ["u.PTH", "u.Ckpt"])
def test_pickles_in_any_case(tmp_path, name):
    torch.save({"time_embedding.x": torch.ones(2)}, tmp_path / name)
    assert identify(read_checkpoint(tmp_path / name).tensors) == "unet"
