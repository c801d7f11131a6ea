"""Which models lie in folders: by what is in the files."""

import os

import torch

from diffharmony.common.assets import TINY
from diffharmony.common.checkpoint import write_checkpoint
from diffharmony.diffusion.model_files import ModelFile, files_of_kind, pairs


def test_the_bundled_family_is_told_by_what_is_in_its_files(tmp_path):
    links = {path.name: tmp_path / f"{index}.safetensors" for index, path in enumerate(sorted(TINY.glob("*.safetensors")))}
    for name, link in links.items():
        link.symlink_to(TINY / name)
    files = [ModelFile(name, link) for name, link in links.items()]

    def names(*wanted):
        return sorted(file.name for file in files_of_kind(files, *wanted))

    assert names("unet", "harmonize") == ["harmonization_unet.safetensors"]
    assert names("unet", "invert") == ["inverse_unet.safetensors"]
    assert names("harmony_vae") == ["harmony_vae.safetensors", "inverse_harmony_vae.safetensors"]
    assert names("classifier") == ["harmony_classifier.safetensors"]
    assert names("refinement") == []


def test_newest_first_and_what_is_no_model_is_left_out(tmp_path):
    def vae(name, date, **options):
        path = tmp_path / name
        write_checkpoint(path, {"conditional_encoder.a": torch.ones(1)}, **{"kind": "harmony_vae", "config": {}, **options})
        os.utime(path, (date, date))
        return ModelFile(name, path)

    old, new = vae("old.safetensors", 1000), vae("new.safetensors", 2000)
    wrong = vae("wrong.safetensors", 3000, kind="unet")  # its metadata says other than its tensors
    inverse = vae("inverse.safetensors", 3000, direction="invert")
    damaged = ModelFile("damaged.safetensors", tmp_path / "damaged.safetensors")
    damaged.path.write_bytes(old.path.read_bytes()[:20])
    gone = ModelFile("gone.safetensors", tmp_path / "gone.safetensors")
    unet = ModelFile("no_prompt.safetensors", tmp_path / "no_prompt.safetensors")
    write_checkpoint(unet.path, {"time_embedding.a": torch.ones(1)}, kind="unet", config={})
    files = [old, wrong, damaged, gone, new, inverse, unet]
    assert files_of_kind(files, "harmony_vae", "harmonize") == [new, old]
    assert files_of_kind(files, "unet") == []
    vae("old.safetensors", 1001, kind="unet")  # a file that changes is looked at again
    assert files_of_kind(files, "harmony_vae", "harmonize") == [new]


def test_a_unet_goes_with_the_vaes_of_its_own_folder_else_with_all():
    def file(name):
        return ModelFile(name, TINY / name)

    vaes = [file("a/v"), file("b/v"), file("b/w")]
    assert [pair.name for pair in pairs([file("b/u"), file("u")], vaes)] == ["b/u + b/v", "b/u + b/w", "u + a/v", "u + b/v", "u + b/w"]
    assert [pair.name for pair in pairs([file("a\\u")], vaes)] == ["a\\u + a/v"]
    assert pairs([file("u")], []) == []
