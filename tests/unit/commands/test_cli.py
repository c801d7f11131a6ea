"""The command line: as a real process where that matters, in this one (start-up takes seconds) elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.diffusion import save_unet
from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.tests.made.models import least_unet, vae


def run(*arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "diffharmony", *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a composite, its mask, and a tiny pair of models with made-up weights."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "composite.png")
    mask = np.zeros((50, 70), np.uint8)
    mask[10:40, 20:50] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:40]).save(folder / "small_mask.png")
    plain = vae((8, 8, 8, 8), groups=4)
    save_harmony_vae(HarmonyVAE.from_autoencoder_kl(plain), folder / "vae.safetensors")
    save_harmony_vae(HarmonyVAE.from_autoencoder_kl(plain), folder / "inverse_vae.safetensors", direction="invert")
    (folder / "folder.png").mkdir()
    unet = least_unet()
    save_unet(unet, folder / "unet.safetensors", empty_prompt_embeds=torch.randn(1, 77, 8), prediction_type="v_prediction")
    save_unet(unet, folder / "inverse_unet.safetensors", empty_prompt_embeds=torch.randn(1, 77, 8), direction="invert")
    return folder


MODELS = ("--vae", "vae.safetensors", "--unet", "unet.safetensors", "--device", "cpu")


def test_help_lists_every_command_without_loading_torch(work):
    done = run("--help", folder=work)
    assert done.returncode == 0
    assert "harmonize" in done.stdout and "convert" in done.stdout and "train-vae" in done.stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, diffharmony.__main__ as m; m.main(['--help']); sys.exit('torch' in sys.modules)"],
        capture_output=True,
    )
    assert loaded.returncode == 0


@pytest.mark.parametrize("command", ["harmonize", "convert"])
def test_each_command_has_help_with_examples(work, command):
    done = run(command, "--help", folder=work)
    assert done.returncode == 0
    assert "Examples:" in done.stdout and f"diffharmony {command} " in done.stdout and "--out" in done.stdout


def test_harmonize_writes_the_image_and_says_so_in_json(work):
    done = run("harmonize", "composite.png", "mask.png", "--out", "out.png", "--seed", 3, "--json", *MODELS, folder=work)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["out"], report["width"], report["height"], report["seed"]) == ("out.png", 70, 50, 3)
    assert "5/5" in done.stderr
    before, after, mask = (np.asarray(Image.open(work / name)) for name in ("composite.png", "out.png", "mask.png"))
    assert after.shape == before.shape
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert not np.array_equal(after[mask == 255], before[mask == 255])


def test_harmonize_keeps_colour_profile_and_resolution(here):
    profile = b"\0" * 16 + b"RGB XYZ " + b"\0" * 104
    Image.open("composite.png").save("profiled.png", icc_profile=profile, dpi=(300, 300))
    assert main(["harmonize", "profiled.png", "mask.png", "--out", "profiled_out.png", "--steps", "1", *MODELS]) == 0
    with Image.open("profiled_out.png") as image:
        assert image.info["icc_profile"] == profile and image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_missing_extra_is_named_without_a_traceback(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["harmonize", "--help"]) == 1
    error = capsys.readouterr().err
    assert "tyro must be installed" in error and "[train]" in error and len(error.splitlines()) == 1


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def test_options_reach_the_model(here, capsys):
    names = {"a.png": (), "b.png": ("--seed", "1"), "c.png": ("--no-paste-background", "--plain", "--size", "64", "--dtype", "bfloat16")}
    images = []
    for name, options in names.items():
        assert main(["harmonize", "composite.png", "mask.png", "--out", name, *MODELS, *options]) == 0
        images.append(np.asarray(Image.open(name)))
    assert capsys.readouterr().out == ""
    background = np.asarray(Image.open("mask.png")) == 0
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0][background], images[2][background])


@pytest.mark.parametrize(("arguments", "message"), [
    (("nowhere.png", "mask.png", "--out", "x.png"), "image 'nowhere.png' must exist"),
    (("composite.png", "mask.png", "--out", "no/x.png"), "folder of 'x.png' must exist"),
    (("composite.png", "mask.png", "--out", "x.txt"), "must end in"),
    (("composite.png", "mask.png", "--out", "folder.png"), "image to write must be a file, got the folder"),
    (("composite.png", "mask.png", "--out", "x.png", "--tile", "50"), "tile must be a whole multiple of"),
    (("composite.png", "mask.png", "--out", "x.png", "--unet", "inverse_unet.safetensors"), "must be a UNet of direction 'harmonize', got 'invert'"),
    (("composite.png", "mask.png", "--out", "x.png", "--vae", "inverse_vae.safetensors"), "must be of one direction"),
    (("composite.png", "small_mask.png", "--out", "x.png"), "mask must be as large as composite (70 x 50 px"),
    (("composite.png", "mask.png", "--out", "composite.png"), "--out must be another file"),
    (("composite.png", "mask.png", "--out", "x.png", "--unet", "vae.safetensors"), "must be a UNet"),
    (("composite.png", "mask.png", "--out", "x.png", "--vae", "unet.safetensors"), "must be a Harmony-VAE"),
    (("composite.png", "mask.png", "--out", "x.png", "--device", "warp"), "device must be"),
    (("composite.png", "mask.png", "--out", "x.png", "--size", "3"), "size must be"),
])
def test_errors_are_one_line_and_write_nothing(here, capsys, arguments, message):
    models = [item for flag, item in (("--vae", "vae.safetensors"), ("--unet", "unet.safetensors"), ("--device", "cpu"))
              if flag not in arguments for item in (flag, item)]  # fmt: skip
    assert main(["harmonize", *arguments, *models]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("diffharmony harmonize: ") and message in last
    assert not list(here.glob("x.*")) and not list(here.glob(".*"))


def test_errors_can_be_traced(here, monkeypatch):
    monkeypatch.setenv("DIFFHARMONY_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["harmonize", "nowhere.png", "mask.png", "--out", "x.png"])


def test_wrong_usage_exits_with_2(work):
    assert run(folder=work).returncode == 2
    unknown = run("harmonise", folder=work)
    assert unknown.returncode == 2 and "command must be one of" in unknown.stderr
    assert run("harmonize", "composite.png", folder=work).returncode == 2
    assert run("harmonize", "composite.png", "mask.png", "--out", "x.png", "--dtype", "int8", folder=work).returncode == 2


def test_an_error_of_a_real_process_is_one_line_and_exit_code_1(work):
    done = run("harmonize", "nowhere.png", "mask.png", "--out", "x.png", *MODELS, folder=work)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr and "image 'nowhere.png' must exist" in done.stderr.splitlines()[-1]


def test_convert_runs_as_a_command(here, capsys):
    assert main(["convert", "unet.safetensors", "--vae", "vae.safetensors", "--out", "models", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(report["unet"]).name == "harmonization_unet.safetensors"
    assert sorted(p.name for p in Path("models").iterdir()) == ["harmonization_unet.safetensors", "harmony_vae.safetensors"]
    assert main(["convert", "unet.safetensors", "--direction", "invert", "--out", "no"]) == 1
    assert "direction must be the same for all parts, got 'invert' by --direction, 'harmonize' by unet.safetensors" in capsys.readouterr().err
    assert main(["convert", "inverse_unet.safetensors", "--out", "models", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["direction"], Path(report["unet"]).name) == ("invert", "inverse_unet.safetensors")
    assert main(["convert", "models/nowhere", "--out", "models"]) == 1
    assert "must exist" in capsys.readouterr().err.splitlines()[-1]
