"""Without an id on the Hub nothing asks a network: commands and loaders where every connection is refused, and noted."""

import socket

import pytest

from diffharmony.__main__ import main
from diffharmony.harmony_vae import load_harmony_vae, save_harmony_vae
from diffharmony.tests.faults.targets import make_good


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the network; each attempt fails."""
    attempts = []

    def refuse(*arguments, **options):
        attempts.append(arguments)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return attempts


def test_commands_ask_no_network(asked, tmp_path):
    make_good(tmp_path)
    data, out = tmp_path / "data", tmp_path / "out"
    subset = data / "HCOCO"
    pair = [f"--{name}={tmp_path / name}.safetensors" for name in ("vae", "unet")]
    inverse = [f"--vae={tmp_path / 'inverse_vae.safetensors'}", f"--unet={tmp_path / 'inverse_unet.safetensors'}"]
    save_harmony_vae(load_harmony_vae(tmp_path / "vae.safetensors"), tmp_path / "inverse_vae.safetensors", direction="invert")
    commands = (
        # the text encoder and its tokenizer are transformers' own, which asks a network by itself
        ["convert", tmp_path / "archive", "--out", out / "converted"],
        ["harmonize", subset / "composite_images" / "a1_1_1.png", subset / "masks" / "a1_1.png", "--out", tmp_path / "a.png", "--size", 64, *pair],
        ["evaluate", "--data", data, "--list", "IHD_train.txt", "--predictions", subset / "composite_images"],
        ["generate", "--data", data, "--out", out / "generated", "--candidates", 1, "--steps", 1, "--size", 64, *inverse],
        ["select", "--data", out / "generated", "--out", out / "selected", "--classifier", tmp_path / "classifier.safetensors"],
    )
    for command in commands:
        assert main([str(part) for part in command]) == 0, command[0]
    assert not asked


def test_a_hub_id_does_ask(asked):
    with pytest.raises(FileNotFoundError, match="be reachable or cached"):
        load_harmony_vae("owner/no-such-name@v1")
    assert asked
