"""One ComfyUI for each host version and test run, with small made-up models and pictures."""

from __future__ import annotations

import os

import pytest

from diffharmony.tests.host.comfy_server import VERSIONS, ComfyServer, find_host
from diffharmony.tests.made.host_models import make_models, make_pictures


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """In several processes (`--dist loadgroup`) each host's tests stay in one, with one server; all others stay with their file."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        item.add_marker(pytest.mark.xdist_group(params.get("host") or item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with the made-up models and pictures."""
    folder = tmp_path_factory.mktemp("made")
    make_models(folder)
    make_pictures(folder)
    return folder


@pytest.fixture(scope="session", params=VERSIONS[:1] if "COMFYUI_PATH" in os.environ else VERSIONS)
def host(request):
    found = find_host(request.param)
    if found.missing():
        pytest.skip(found.missing())
    return found


@pytest.fixture(scope="session")
def hub():
    """The only Hub that the server's nodes can reach; empty."""
    from diffharmony.tests.made.hub_server import HubServer

    with HubServer() as running:
        yield running


@pytest.fixture(scope="session")
def server(host, made, hub, tmp_path_factory):
    with ComfyServer(tmp_path_factory.mktemp("comfy ui ü"), host, hub=hub.endpoint) as running:
        for folder, ending in (("vae", "vae"), ("diffusion_models", "unet"), ("harmony_classifiers", "classifier")):
            for path in made.glob(f"*{ending}.safetensors"):
                running.add_model(folder, path)
        for path in (path for path in made.iterdir() if path.suffix in (".png", ".jpg", ".mp4")):
            running.add_input(path)
        yield running


@pytest.fixture(scope="session")
def library_vae(made):
    from diffharmony.harmony_vae import load_harmony_vae

    return load_harmony_vae(made / "harmony_vae.safetensors")
