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
from diffharmony.common.images import load_image, tensor_to_pil
from diffharmony.diffusion import harmonize, load_unet, save_unet
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, save_harmony_vae
from diffharmony.synthetic.compose import compose_foreground, load_cutout
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


def test_harmonize_writes_the_image_and_says_so_in_json(here, capsys):
    assert main(["harmonize", "composite.png", "mask.png", "--out", "out.png", "--seed", "3", "--json", *MODELS]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["out"], report["width"], report["height"], report["seed"]) == ("out.png", 70, 50, 3)
    assert "5/5" in printed.err
    before, after, mask = (np.asarray(Image.open(name)) for name in ("composite.png", "out.png", "mask.png"))
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


def test_variants_are_written_most_harmonious_first_with_a_sheet(here, capsys):
    arguments = ["composite.png", "mask.png", "--out", "v.png", "--variants", "3", "--mask-grow", "2", "--mask-feather", "2", "--json", *MODELS]
    assert main(["harmonize", *arguments]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["out"] for one in report["variants"]] == ["v.png", "v-2.png", "v-3.png"]
    scores = [one["unharmonious"] for one in report["variants"]]
    assert scores == sorted(scores) and report["steps"] == 5 and Path("v-sheet.png").is_file()
    images = [np.asarray(Image.open(one["out"])) for one in report["variants"]]
    assert len({image.tobytes() for image in images}) == 3
    first = next(one for one in report["variants"] if one["seed"] == 0)
    single = [argument if argument != "3" else "1" for argument in arguments]
    assert main(["harmonize", *single, "--steps", "5", "--out", "one.png"]) == 0
    assert np.abs(np.asarray(Image.open("one.png")).astype(int) - np.asarray(Image.open(first["out"]))).max() <= 1


def test_a_black_foreground_and_one_by_transparency_are_the_same(here):
    composite, mask = Image.open("composite.png"), Image.open("mask.png")
    Image.fromarray(255 - np.asarray(mask)).save("black.png")
    composite.putalpha(mask)
    composite.save("cutout.png")
    for name, arguments in {"s": ("composite.png", "mask.png"), "b": ("composite.png", "black.png", "--invert-mask"), "t": ("cutout.png",)}.items():
        assert main(["harmonize", *arguments, "--out", f"same_{name}.png", *MODELS]) == 0
    straight, black, transparent = (np.asarray(Image.open(f"same_{name}.png")) for name in "sbt")
    assert np.array_equal(straight, black) and np.array_equal(straight, transparent)


def make_cutout(folder: Path) -> None:
    """cutout_soft.png, 30 x 40 px, grey with a soft edge in transparent space, on `wall.jpg`, 90 x 60 px, of 300 dpi."""
    y, x = np.mgrid[:40, :30]
    alpha = np.clip((12 - np.hypot(y - 20, x - 15)) / 4 + 0.5, 0, 1) * 255
    Image.fromarray(np.dstack([np.full((40, 30, 3), 90.0), alpha]).round().astype(np.uint8)).save(folder / "cutout_soft.png")
    Image.fromarray(alpha.astype(np.uint8)).save(folder / "cutout_mask.png")
    Image.open(folder / "composite.png").resize((90, 60)).save(folder / "wall.jpg", dpi=(300, 300), quality=95)


def test_a_cutout_is_composed_and_then_harmonized(here, capsys):
    """As its parts do: the library composes, the command harmonizes what was composed."""
    make_cutout(here)
    place = ["--compose", "wall.jpg", "--position", "0.25", "0.7", "--scale", "0.4", "--feather", "2"]
    assert main(["harmonize", "cutout_soft.png", *place, "--out", "placed.png", "--json", *MODELS]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["compose"], report["width"], report["height"]) == ("wall.jpg", 90, 60)
    placed, wall = np.asarray(Image.open("placed.png")), load_image("wall.jpg")
    composite, mask = compose_foreground(*load_cutout("cutout_soft.png"), wall, x=0.25, y=0.7, scale=0.4, feather=2)
    assert report["foreground"] == pytest.approx((mask >= 0.5).float().mean().item(), abs=1e-6)
    outside = mask[0, 0].numpy() == 0
    assert np.array_equal(placed[outside], np.asarray(Image.open("wall.jpg"))[outside])
    assert Image.open("placed.png").info["dpi"] == pytest.approx((300, 300), abs=0.1)
    vae, unet = load_harmony_vae("vae.safetensors"), load_unet("unet.safetensors")
    expected = harmonize(vae, unet, composite, mask, steps=5, seed=0, size="auto", detail="transfer", crop="auto")
    assert np.abs(placed.astype(int) - np.asarray(tensor_to_pil(expected)[0])).max() <= 1

    own = ["harmonize", "cutout_soft.png", *place, *MODELS]
    assert main([*own, "--decontaminate", "--strength", "0", "--out", "unmixed.png"]) == 0
    assert np.abs(np.asarray(Image.open("unmixed.png")).astype(int) - np.asarray(tensor_to_pil(composite)[0])).max() <= 1
    assert main([*own, "--decontaminate", "--out", "unmixed.png"]) == 0
    unmixed, soft = np.asarray(Image.open("unmixed.png")).astype(int), (mask[0, 0].numpy() > 0.1) & (mask[0, 0].numpy() < 0.9)
    assert np.abs(unmixed - placed)[soft].max() > 1 and np.array_equal(unmixed[outside], placed[outside])


def test_a_cutout_without_its_background_is_refused(here, capsys):
    make_cutout(here)
    assert main(["harmonize", "cutout_soft.png", "--out", "x.png", *MODELS]) == 1
    assert "cutout_soft.png must have its background where it is transparent, got one colour there" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("x.png").exists()


def test_a_folder_of_cutouts_on_one_background(here, capsys):
    make_cutout(here)
    (here / "cutouts").mkdir()
    for name in ("one", "two"):
        Image.open("cutout_soft.png").save(f"cutouts/{name}.png")
    assert main(["harmonize", "cutouts", "--compose", "wall.jpg", "--out", "scenes", "--json", *MODELS]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(one["out"]).name for one in report["images"]] == ["one.png", "two.png"]
    assert {Image.open(one["out"]).size for one in report["images"]} == {(90, 60)}


def test_a_cutouts_own_mask_may_be_inverted(here):
    make_cutout(here)
    Image.open("cutout_soft.png").convert("RGB").save("whole.png")
    Image.fromarray(255 - np.asarray(Image.open("cutout_mask.png"))).save("cutout_black.png")
    for out, masks in (("white", ["cutout_mask.png"]), ("black", ["cutout_black.png", "--invert-mask"])):
        assert main(["harmonize", "whole.png", *masks, "--compose", "wall.jpg", "--out", f"{out}.png", *MODELS]) == 0
    assert np.abs(np.asarray(Image.open("white.png")).astype(int) - np.asarray(Image.open("black.png"))).max() <= 1


def test_a_folder_of_composites(here, capsys):
    for folder, name in (("composites", "composite.png"), ("masks", "mask.png")):
        Path(folder).mkdir()
        for stem in "ab":
            Image.open(name).save(Path(folder) / f"{stem}.png")
    assert main(["harmonize", "composites", "masks", "--out", "harmonized", "--json", *MODELS]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(path.name for path in Path("harmonized").iterdir()) == ["a.png", "b.png"]
    assert [Path(one["out"]).name for one in report["images"]] == ["a.png", "b.png"]
    Path("masks/b.png").unlink()
    for arguments, message in (
        (("composites", "masks"), "masks must hold a mask for every composite of composites, got none for 1 of 2: b.png"),
        (("composites", "mask.png"), "mask must be a folder for a folder of composites, got mask.png"),
        (("composites",), "must have transparency where there is no mask"),
    ):
        assert main(["harmonize", *arguments, "--out", "refused", *MODELS]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert main(["harmonize", "composites", "masks", "--out", "composites", *MODELS]) == 1


def test_a_videos_frames(here, capsys):
    for folder, name in (("frames", "composite.png"), ("areas", "mask.png")):
        Path(folder).mkdir()
        for number in range(3):
            Image.open(name).save(Path(folder) / f"{number:04d}.png")
    Image.new("L", (70, 50)).save("areas/0001.png")
    assert main(["harmonize", "frames", "areas", "--out", "video", "--smoothing", "4", "--json", *MODELS]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(one["out"]).name for one in report["images"]] == ["0000.png", "0001.png", "0002.png"]
    first, second, third = (np.asarray(Image.open(Path("video") / f"{number:04d}.png")) for number in range(3))
    assert np.array_equal(first, third) and np.array_equal(second, np.asarray(Image.open("composite.png")))
    assert main(["harmonize", "frames", "areas", "--out", "video", "--smoothing", "4", "--detail", "change", *MODELS]) == 1
    assert "smoothing must be 0 for detail change" in capsys.readouterr().err.splitlines()[-1]


def test_a_working_size_beyond_the_image_warns(here, caplog):
    assert main(["harmonize", "composite.png", "mask.png", "--out", "large.png", "--working-size", "96", *MODELS]) == 0
    assert "The working size 96 x 69 px enlarges the image of 70 x 50 px" in caplog.text


@pytest.mark.parametrize(("arguments", "message"), [
    (("composite.png", "mask.png", "--out", "x.png", "--variants", "9"), "variants must be a whole number in 1..8, got 9"),
    (("composite.png", "mask.png", "--out", "x.png", "--mask-grow", "300"), "mask grow must be a whole number of pixels in -256..256"),
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
    (("composite.png", "mask.png", "--out", "x.png", "--scale", "0.5"), "--scale must come with --compose"),
    (("composite.png", "--compose", "mask.png", "--out", "x.png"), "composite.png must have transparency around the object"),
    (("composite.png", "mask.png", "--compose", "nowhere.jpg", "--out", "x.png"), "image 'nowhere.jpg' must exist"),
    (("composite.png", "mask.png", "--compose", "folder.png", "--out", "x.png"), "--compose must be one image file, got the folder folder.png"),
    (("composite.png", "mask.png", "--compose", "composite.png", "--out", "composite.png"), "--out must be another file"),
    (("composite.png", "mask.png", "--compose", "composite.png", "--out", "x.png", "--position", "3", "0.5"), "foreground must lie at least partly on the background"),
    (("composite.png", "mask.png", "--compose", "composite.png", "--out", "x.png", "--smoothing", "8"), "smoothing must be 0 with --compose, got 8"),
    (("composite.png", "--compose", "composite.png", "--out", "x.png", "--invert-mask"), "--invert-mask must come with a mask where there is --compose"),
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
    assert run("harmonize", "composite.png", "mask.png", folder=work).returncode == 2
    assert run("harmonize", "composite.png", "mask.png", "--out", "x.png", "--dtype", "int8", folder=work).returncode == 2


def test_an_error_of_a_real_process_is_one_line_and_exit_code_1(work):
    done = run("evaluate", "--data", "nowhere", "--predictions", ".", folder=work)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr and "list file 'IHD_test.txt' must exist" in done.stderr.splitlines()[-1]


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
    assert "models/nowhere must be a file or folder that exists, or a model on the Hub" in capsys.readouterr().err.splitlines()[-1]
