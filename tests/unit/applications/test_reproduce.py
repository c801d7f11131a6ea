"""`reproduce`: the rows are what harmonize() gives, whatever the processes and kills, and the miniature says that it is one."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.applications.reproduce.figures import draw_figure_2, draw_figure_3
from diffharmony.applications.reproduce.miniature import Miniature, make_setting
from diffharmony.applications.reproduce.paper import MINIATURES, TABLES, Method, Row, Table
from diffharmony.applications.reproduce.table2_miniature import Small
from diffharmony.applications.reproduce.tables import Setting, find_models, markdown, prediction_folder, predictions_place, run_table
from diffharmony.common.assets import TINY
from diffharmony.common.images import pil_to_mask, pil_to_tensor, tensor_to_pil
from diffharmony.common.processes import processes
from diffharmony.dataset.foreground_ratio import foreground_shares
from diffharmony.dataset.pairs import read_list
from diffharmony.diffusion import harmonize, load_unet
from diffharmony.harmony_vae import load_harmony_vae

SIDE, COUNT = 64, 4


def write_data(root, subset="HFlickr"):
    rng = np.random.default_rng(0)
    for name in ("composite_images", "masks", "real_images"):
        (root / subset / name).mkdir(parents=True)
    for number in range(COUNT):
        real = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE)))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8 : 12 + 14 * number, 8:40] = 255
        composite = np.where(mask[..., None] > 0, real // 2, real).astype(np.uint8)
        Image.fromarray(real).save(root / subset / f"real_images/t{number}.png")
        Image.fromarray(mask).save(root / subset / f"masks/t{number}_1.png")
        Image.fromarray(composite).save(root / subset / f"composite_images/t{number}_1_1.png")
    names = [f"{subset}/composite_images/t{number}_1_1.png" for number in range(COUNT)]
    (root / "IHD_test.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("reproduce") / "data")


def small(data, **changes):
    """The paper's sizes over 16, so that the 1024 of a row are 64 px."""
    return replace(Setting(data, "IHD_test.txt", (find_models(TINY),), size_divisor=16, kept=32), **changes)


def test_rows_are_what_harmonize_gives(data, tmp_path):
    result = run_table(TABLES["table1"], small(data), tmp_path, state=PartialState(cpu=True))
    row = TABLES["table1"].rows[3]
    vae, unet = load_harmony_vae(TINY / "harmony_vae.safetensors"), load_unet(TINY / "harmonization_unet.safetensors")
    pair = read_list(data, "IHD_test.txt")[2]
    expected = harmonize(
        vae, unet, pil_to_tensor(Image.open(pair.composite)), pil_to_mask(Image.open(pair.mask)), 5, 2, size="native",
        detail="decoded", paste_background=False,
    )
    expected = tensor_to_pil(expected)[0].resize((32, 32), Image.Resampling.BILINEAR)
    place = predictions_place(tmp_path, read_list(data, "IHD_test.txt"))
    found = Image.open(prediction_folder(place, row, 0) / "t2_1_1.png")
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    names = {row["name"]: row for row in result["rows"]}
    assert names["HDNet"]["figures"] == {} and names["HDNet"]["remark"] == "paper only"
    assert names["composite"]["figures"]["PSNR"] != names["DiffHarmony (plain VAE), 1024"]["figures"]["PSNR"]
    difference = result["differences"][1]
    ours, theirs = names["DiffHarmony++ (Harmony-VAE), 1024"], names["DiffHarmony (plain VAE), 1024"]
    assert difference["PSNR"] == pytest.approx(ours["figures"]["PSNR"] - theirs["figures"]["PSNR"])
    assert difference["paper"] == pytest.approx(41.66 - 40.98)
    assert ("same" in difference["verdict"]) == (difference["PSNR"] > 0)
    assert "40.98" in markdown(result) and "| composite |" in markdown(result)


def test_a_killed_run_is_gone_on_with(data, tmp_path):
    setting, state = small(data), PartialState(cpu=True)
    first = run_table(TABLES["table1"], setting, tmp_path, state=state)
    place = predictions_place(tmp_path, setting.pairs())
    folder = prediction_folder(place, TABLES["table1"].rows[3], 0)
    kept, lost = folder / "t0_1_1.png", folder / "t1_1_1.png"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert run_table(TABLES["table1"], setting, tmp_path, state=state) == first
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="seed must be 0 to go on in .*, got 5"):
        run_table(TABLES["table1"], setting, tmp_path, state=state, seed=5)


def table_1_in_a_process(arguments):
    """What `test_two_processes` starts."""
    data, out = map(Path, arguments)
    state = processes()
    print(json.dumps([state.num_processes, bool(run_table(TABLES["table1"], small(data), out, state=state))]))


def test_two_processes_write_what_one_writes(data, tmp_path, runs):
    started = runs.start_processes(2, data, tmp_path / "two", function=f"diffharmony.tests.unit.applications.test_reproduce:{table_1_in_a_process.__name__}")
    assert [process.wait() for process in started] == [0, 0]
    assert [json.loads(process.output().splitlines()[-1]) for process in started] == [[2, True], [2, False]]
    run_table(TABLES["table1"], small(data), tmp_path / "one", state=PartialState(cpu=True))
    ones = sorted((tmp_path / "one" / "predictions").rglob("*.png"))
    assert len(ones) == 2 * COUNT
    for path in ones:
        assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()


def test_several_seeds_give_mean_and_spread_and_missing_checkpoints_are_named(data, tmp_path):
    tiny = find_models(TINY)
    setting = small(data, models=(tiny, tiny), failed=({}, {}))
    paper = {"PSNR": 1.0, "MSE": None, "fMSE": None}
    table = Table("t", (Row("there", paper, Method(1024)), Row("not", paper, Method(1024, vae="absent"))))
    result = run_table(table, setting, tmp_path, state=PartialState(cpu=True))
    there, absent = result["rows"]
    values = [run["PSNR"] for run in there["runs"]]
    assert len(values) == 2 and values[0] != values[1]
    assert there["figures"]["PSNR"] == pytest.approx(np.mean(values)) and there["spread"]["PSNR"] == pytest.approx(np.std(values, ddof=1))
    assert absent["remark"] == "no checkpoint absent" and "±" in markdown(result)


def test_the_ranges_and_subsets_of_a_row(data, tmp_path):
    result = run_table(TABLES["table3"], small(data), tmp_path, state=PartialState(cpu=True))
    shares = foreground_shares(read_list(data, "IHD_test.txt"))
    low = [row for row in result["rows"] if row["name"] == "composite, foreground 0-5 %"][0]
    assert (shares < 0.05).sum() == 1 and low["figures"]["PSNR"] is not None
    table = TABLES["table2"]
    hday = [row for row in run_table(table, small(data, models=({},)), tmp_path / "b", state=PartialState(cpu=True))["rows"]]
    assert all("table2_" in row["remark"] and row["figures"] == {} for row in hday)


def test_figures(data, tmp_path):
    result, text = draw_figure_2(data, "IHD_test.txt", None, tmp_path)
    shares = foreground_shares(read_list(data, "IHD_test.txt"))
    assert shares[1] == pytest.approx(18 * 32 / SIDE**2)
    assert result["above"]["iHarmony4"] == np.mean(shares > 0.2) and "under 0.15" in text
    result, _ = draw_figure_3(small(data), tmp_path, state=PartialState(cpu=True), seed=0)
    assert len(result["composites"]) == COUNT
    for name in ("figure2.png", "figure3.png"):
        assert Image.open(tmp_path / name).size[0] > 600


MINI = Miniature(seeds=1, composites=3, steps=1, refinement_steps=1, photo_crops=10, refined=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("miniature")


@pytest.fixture(scope="module")
def table5(work):
    return make_setting("table5", MINI, work)


def test_the_miniature_trains_its_cells_and_says_so(work, table5, tmp_path):
    setting = table5
    names = [row.method.vae for row in TABLES["table5"].rows]
    assert set(names) <= set(setting.models[0]) | set(setting.failed[0])
    zero, random = (load_harmony_vae(setting.models[0][f"table5_{start}_encoder_and_decoder"]) for start in ("zero", "random"))
    sizes = [vae.conditional_encoder.down_block_skip_convs[0].weight.abs().max().item() for vae in (zero, random)]
    assert 0 < sizes[0] < 0.01 < sizes[1]
    stamp = setting.models[0][names[0]].stat().st_mtime_ns
    assert make_setting("table5", MINI, work).models[0][names[0]].stat().st_mtime_ns == stamp
    result = run_table(TABLES["table5"], replace(setting, limit=1), tmp_path / "out", state=PartialState(cpu=True))
    assert "MINIATURE" in markdown(result) and all(math.isfinite(row["figures"]["PSNR"]) for row in result["rows"])
    assert result["rows"][0]["remark"] == ""


def test_table_4_trains_its_refinement_stages_on_table_5s_harmony_vae(work, table5, tmp_path):
    before = table5.models[0]["table5_zero_encoder_and_decoder"]
    stamp = before.stat().st_mtime_ns
    setting = make_setting("table4", MINI, work)
    assert setting.models[0]["harmony_vae"] == before and before.stat().st_mtime_ns == stamp
    configs = {
        name: json.loads((setting.models[0][name].parent / "config.json").read_text()) for name in ("refinement", "refinement_plain")
    }
    pictures = [sorted(os.listdir(config["harmonized"])) for config in configs.values()]
    assert pictures[0] == pictures[1] and sum(name.endswith(".png") for name in pictures[0]) == MINI.refined
    result = run_table(TABLES["table4"], replace(setting, limit=1), tmp_path / "out", state=PartialState(cpu=True))
    figures = [row["figures"]["PSNR"] for row in result["rows"]]
    assert len(set(figures)) == 6 and all(map(math.isfinite, figures))
    assert [row["remark"] for row in result["rows"]] == [""] * 6


def test_table_2_trains_with_and_without_generated_composites(work, tmp_path):
    setting = make_setting("table2", replace(MINI, small=Small(pairs=2, steps=1, batch_size=2)), Path(os.path.relpath(work)))
    folder = work / "table2-2-seed0"
    assert {name: len(read_list(folder / name, "IHD_train.txt")) for name in ("base", "gamma-0.5", "gamma-1", "gamma-2")} == {
        "base": 4, "gamma-0.5": 2, "gamma-1": 4, "gamma-2": 8,
    }  # fmt: skip
    table = MINIATURES["table2"]
    configs = [json.loads((setting.models[0][row.method.unet].parent / "config.json").read_text()) for row in table.rows if row.method]
    assert [len(config["data"]["roots"]) for config in configs] == [1, 2, 2, 2]
    assert len({str(sorted(config["optim"].items())) for config in configs}) == 1
    result = run_table(table, replace(setting, limit=1), tmp_path / "out", state=PartialState(cpu=True))
    assert len({row["figures"]["PSNR"] for row in result["rows"]}) == 5 and [item["paper"] for item in result["differences"]][1] > 3


def test_the_losses_are_one_more_training(work):
    models = make_setting("losses", MINI, work).models[0]
    assert json.loads((models["losses_l1"].parent / "config.json").read_text())["loss"] == "l1"
    assert {row.method.vae for row in TABLES["losses"].rows} <= set(models)


def test_a_training_that_diverges_is_a_row_without_figures(data, tmp_path):
    setting = small(data, models=(find_models(TINY),), failed=({"table5_random_conditional_encoder": "loss must be finite"},))
    row = run_table(TABLES["table5"], setting, tmp_path, state=PartialState(cpu=True))["rows"][2]
    assert row["remark"] == "seed 0: training diverged" and row["figures"] == {}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table1", "--models", str(TINY)], "data must name a data set when models are given"),
        (["table1", "--data", "DATA"], "models must name a folder of checkpoints when data is given"),
        (["table2", "--unet-steps", "0"], "unet_steps must be at least 1"),
        (["table1", "--data", "DATA", "--models", "nowhere"], "models folder 'nowhere' must exist, looked in"),
        (["table1", "--data", "nowhere", "--models", str(TINY)], "list 'IHD_test.txt' must exist, looked in"),
        (["table1", "--composites", "2"], "composites must be at least 3"),
        (["table1", "--limit", "0"], "limit must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(data, tmp_path, capsys, arguments, message):
    arguments = [str(data) if word == "DATA" else word for word in arguments]
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_the_command_prints_and_writes(data, tmp_path, capsys):
    """In the paper's own sizes: figure2 reads masks alone."""
    out = tmp_path / "out"
    assert main(["reproduce", "figure2", "--data", str(data), "--human-harmony", str(data), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["above"]["Human Harmony"] == printed["above"]["iHarmony4"]
    assert json.loads((out / "figure2.json").read_text())["above"] == printed["above"] and "about 0.70" in (out / "figure2.md").read_text()
