"""`reproduce`: which runs stand beside which, and which predictions are gone on with."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from PIL import Image

from diffharmony.applications.reproduce import tables as run
from diffharmony.applications.reproduce.miniature import Miniature, make_setting
from diffharmony.applications.reproduce.paper import Method, Row, Table
from diffharmony.applications.reproduce.predict import fingerprint, predict
from diffharmony.applications.reproduce.tables import Setting, find_models, run_table
from diffharmony.applications.reproduce.trainings import VERDICT, Training, train_all
from diffharmony.common.assets import TINY
from diffharmony.common.checkpoint import write_checkpoint
from diffharmony.dataset.foreground_ratio import foreground_shares
from diffharmony.dataset.pairs import read_list
from diffharmony.tests.unit.applications.test_reproduce import write_data
from diffharmony.train.config import RunConfig

LIST = "IHD_test.txt"
STATE = PartialState(cpu=True)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def nothing(psnr=None):
    return {"PSNR": psnr, "MSE": None, "fMSE": None}


@pytest.fixture
def drawn(monkeypatch):
    """In place of harmonizing: predictions of one grey, the darker the larger the seed; and how often each was drawn."""
    count = {}

    def draw(method, models, pairs, folder, *, seed, kept, **_):
        folder.mkdir(parents=True, exist_ok=True)
        for index, pair in enumerate(pairs):
            path = folder / f"{pair.composite.stem}.png"
            if not path.is_file():
                Image.new("RGB", (kept, kept), (200 - 20 * (seed // 1_000_003) - (60 if method.vae == "a" else 0),) * 3).save(path)
                count[pair.composite.name] = count.get(pair.composite.name, 0) + 1

    monkeypatch.setattr(run, "predict", draw)
    return count


@pytest.mark.parametrize("seeds_of_a", [(1, 2), (0, 2), (1,), (0,), ()])
def test_a_seed_that_diverged_is_left_out_of_differences(data, tmp_path, drawn, seeds_of_a):
    """Each seed of one row stands beside the same seed of the other, and beside the composites' one run."""
    whole = {"b": Path("b"), "unet": Path("u")}
    models = tuple({**whole, "a": Path("a")} if seed in seeds_of_a else whole for seed in range(3))
    failed = tuple({} if seed in seeds_of_a else {"a": "loss must be finite"} for seed in range(3))
    rows = [Row(name, nothing(1.0), Method(512, vae=vae, unet="unet")) for name, vae in (("first", "a"), ("second", "b"))]
    compared = [("first", "second"), ("second", "first"), ("composite", "first"), ("second", "composite")]
    table = Table("t", (*rows, Row("composite", nothing(), composite=True)), tuple((f"{a} {b}", a, b) for a, b in compared))
    setting = Setting(data, LIST, models, failed, kept=32)
    result = run_table(table, setting, tmp_path / "out", state=STATE)
    psnr = {row["name"]: {one["seed"]: one["PSNR"] for one in row["runs"]} for row in result["rows"]}
    assert set(psnr["first"]) == set(seeds_of_a) and set(psnr["second"]) == {0, 1, 2} and set(psnr["composite"]) == {None}
    assert len(set(psnr["second"].values())) == 3
    for item in result["differences"]:
        better, worse = item["name"].split()
        seeds = range(3) if "first" not in (better, worse) else seeds_of_a
        expected = [psnr[better].get(seed, psnr[better].get(None)) - psnr[worse].get(seed, psnr[worse].get(None)) for seed in seeds]
        assert item["runs"] == pytest.approx(expected) and (item["PSNR"] is None) == (not expected)
        assert (item["spread"] is None) == (len(expected) < 2)


def test_weights_that_overflow_before_they_are_saved_are_a_training_that_diverged(tmp_path):
    def overflowing(config):
        write_checkpoint(config.out / "x.safetensors", {"w": torch.tensor([float("inf")])}, kind="refinement", config={})

    def refused(config):
        raise ValueError("data.size must be a multiple of 8, got 9. Choose 256, say.")

    class Config:
        run = RunConfig(out=tmp_path)
        out = tmp_path

    trained, broken = ({},), ({},)
    for _ in range(2):
        train_all([Training("x", 0, overflowing, Config)], 1, trained, broken)
        assert trained == ({},) and "w must be finite" in broken[0]["x"] and (tmp_path / VERDICT).is_file()
    (tmp_path / VERDICT).unlink()
    with pytest.raises(ValueError, match="multiple of 8"):
        train_all([Training("x", 0, refused, Config)], 1, trained, broken)
    assert not (tmp_path / VERDICT).exists()


def test_several_trainings_at_a_time_have_a_process_each(tmp_path):
    trainings = [Training(name, 0, vars, SimpleNamespace(run=RunConfig(out=tmp_path / name), checkpoint=f"{name}.safetensors")) for name in "xy"]
    trained = ({},)
    train_all(trainings, 2, trained, ({},))
    assert trained == ({"x": Path("x.safetensors"), "y": Path("y.safetensors")},)


def rewritten(data):
    """Other masks under the same names."""
    for path in (data / "HFlickr" / "masks").iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def reordered(data):
    (data / LIST).write_text("".join(reversed((data / LIST).read_text().splitlines(keepends=True))))


def shorter_at_the_front(data):
    (data / LIST).write_text("".join((data / LIST).read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize("change", [rewritten, reordered, shorter_at_the_front])
def test_predictions_for_other_composites_are_not_gone_on_with(data, tmp_path, change):
    """Into a folder that holds those of another set come the figures that a fresh folder gives."""
    other = tmp_path / "other"
    shutil.copytree(data, other)
    change(other)
    table = Table("t", (Row("row", nothing(), Method(512, vae="harmony_vae")),))
    first, second = (Setting(root, LIST, (find_models(TINY),), size_divisor=8, kept=32) for root in (data, other))
    before = run_table(table, first, tmp_path / "out", state=STATE)
    fresh = run_table(table, second, tmp_path / "fresh", state=STATE)
    assert run_table(table, second, tmp_path / "out", state=STATE) == fresh != before
    assert run_table(table, first, tmp_path / "out", state=STATE) == before


def test_the_same_composites_elsewhere_are_gone_on_with(data, tmp_path, monkeypatch, drawn):
    table = Table("t", (Row("row", nothing(), Method(512, vae="b", unet="unet")),))
    setting = Setting(data, LIST, ({"b": Path("b"), "unet": Path("u")},), kept=32)
    before = run_table(table, setting, tmp_path / "out", state=STATE)
    shutil.copytree(data, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert run_table(table, replace(setting, data=Path("moved")), tmp_path / "out", state=STATE) == before
    assert set(drawn.values()) == {1}
    run_table(table, replace(setting, limit=2), tmp_path / "out", state=STATE)
    assert sorted(drawn.values()) == [1, 1, 2, 2]


def test_a_folder_of_other_composites_predictions_is_refused(data, tmp_path):
    """Table 4's refinement stages learn on such a folder, which bears no fingerprint in its name."""
    pairs = read_list(data, LIST)
    options = dict(size=64, kept=64, seed=0, device=torch.device("cpu"))
    predict(Method(512), find_models(TINY), pairs[:1], tmp_path / "folder", **options)
    with pytest.raises(ValueError, match=r"composites must be '1-.*' to go on in .*folder, got '4-.*'. Choose another --out, or delete"):
        predict(Method(512), find_models(TINY), pairs, tmp_path / "folder", **options)
    os.utime(pairs[0].mask, ns=(0, 0))
    with pytest.raises(ValueError, match="composites must be"):
        predict(Method(512), find_models(TINY), pairs[:1], tmp_path / "folder", **options)
    pairs[2].composite.unlink()
    with pytest.raises(FileNotFoundError, match="t2_1_1.png must exist, looked in .*composite_images. Complete the data set"):
        fingerprint(pairs)


def test_a_mask_may_lie_in_transparency(data, tmp_path):
    """As the nodes and `harmonize` read it."""
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for path in (other / "HFlickr" / "masks").iterdir():
        mask = Image.open(path)
        white = Image.new("RGB", mask.size, "white")
        white.putalpha(mask)
        white.save(path)
    table = Table("t", (Row("row", nothing(), Method(512, vae="harmony_vae")),))
    plain, transparent = (Setting(root, LIST, (find_models(TINY),), size_divisor=8, kept=32) for root in (data, other))
    found = [run_table(table, setting, tmp_path / "out", state=STATE) for setting in (plain, transparent)]
    assert found[0] == found[1] and len(list((tmp_path / "out" / "predictions").iterdir())) == 2
    assert foreground_shares(plain.pairs()).tolist() == foreground_shares(transparent.pairs()).tolist()


def test_one_seed_is_not_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("diffharmony.applications.reproduce.miniature.make_test_data", lambda mini, work: tmp_path)
    assert make_setting("table1", Miniature(seeds=1, composites=3), tmp_path).heading.endswith(", 1 seed")
    assert make_setting("table1", Miniature(seeds=2, composites=3), tmp_path).heading.endswith(", 2 seeds")
