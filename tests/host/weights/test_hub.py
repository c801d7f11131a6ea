"""Loaders with a model on a Hub of our own: downloaded once, with progress on the node, and refused where it may change."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from diffharmony.common.assets import BY_HUB_ID
from diffharmony.tests.host.prompts import changed, harmonize, without


@pytest.fixture(scope="module")
def name(host):
    """A repository of each host's own: the Hub is one for all."""
    return "acme/" + host.version.replace(" ", "-")


@pytest.fixture(scope="module")
def commit(name, hub, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for file in ("harmony_vae.safetensors", "harmonization_unet.safetensors"):
        shutil.copyfile(made / file, folder / file)
    repository = hub.add(name, folder)
    repository.tags["v1"] = repository.branches["main"]
    return repository.branches["main"]


def downloads_of(hub, name) -> list[str]:
    """The Hub is one for all tests."""
    return [path for path in hub.downloads if path.startswith(f"{name}/")]


def from_hub(**ids):
    return changed(without(harmonize(), "plain", "plain_decode"), **{node: {"hub_id": hub_id} for node, hub_id in ids.items()})


def test_models_come_from_the_hub_when_they_are_named_and_only_then(name, hub, commit, run):
    expected = run(from_hub())
    assert not [request for request in hub.requests if name in request]
    found = run(from_hub(vae=f"{name}@v1:harmony_vae.safetensors", unet=f" {name}@{commit}:harmonization_unet.safetensors "))
    assert np.array_equal(found.images["conditional"][0], expected.images["conditional"][0])
    assert sorted(downloads_of(hub, name)) == [f"{name}/harmonization_unet.safetensors", f"{name}/harmony_vae.safetensors"]
    assert all(found.progress[node] and found.progress[node][-1][0] == found.progress[node][-1][1] > 1000 for node in ("vae", "unet"))
    run(from_hub(vae=f"{name}@{commit}:harmony_vae.safetensors"))
    assert len(downloads_of(hub, name)) == 2


def test_what_is_no_pinned_model_is_refused(name, commit, error_of):
    assert f"Write {name}@{commit}:harmony_vae.safetensors." in error_of(from_hub(vae=f"{name}@main:harmony_vae.safetensors"))
    assert f"got none. Write {name}@{commit}:harmony_vae.safetensors." in error_of(from_hub(vae=f"{name}:harmony_vae.safetensors"))
    assert "hub_id must be owner/name@revision" in error_of(from_hub(vae="https://huggingface.co/acme/x"))
    assert "must hold other.safetensors, got harmonization_unet.safetensors" in error_of(from_hub(unet=f"{name}@v1:other.safetensors"))
    assert "must be a Harmony-VAE" in error_of(from_hub(vae=f"{name}@v1:harmonization_unet.safetensors"))


def test_an_id_counts_whatever_file_was_chosen_where_the_workflow_comes_from(name, commit, run, error_of):
    absent = changed(from_hub(), vae={"vae_name": "theirs.safetensors"}, unet={"unet_name": BY_HUB_ID})
    error = error_of(absent)
    assert "vae_name must be a file that is there, got 'theirs.safetensors'." in error and "unet_name must be a file that is there" in error
    run(changed(absent, vae={"hub_id": f"{name}@v1:harmony_vae.safetensors"}, unet={"hub_id": f"{name}@v1:harmonization_unet.safetensors"}))
