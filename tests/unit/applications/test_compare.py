"""The comparison table's own sums, sheet and optional packages."""

import numpy as np
import pytest
from PIL import Image

from diffharmony.applications.tiny import compare as compare_methods
from diffharmony.common.assets import ROOT
from diffharmony.evaluation.metrics import Measurement


def measurements(*fmse):
    return [Measurement(30.0, 1.0, value, 0.0, 0.1) for value in fmse]


def test_ratios_thirds_and_share_worse():
    rows = compare_methods.table_of({"composite": measurements(300, 10, 100), "ours": measurements(150, 20, 100)})
    assert rows["composite"]["ratio"] == 1 and rows["composite"]["worse"] == 0
    ours = rows["ours"]
    assert (ours["mild"], ours["middle"], ours["strong"]) == (2, 1, 0.5)
    assert ours["ratio"] == pytest.approx(270 / 410) and ours["worse"] == pytest.approx(1 / 3)
    assert "| ours | 90.0 | 0.66 | 2.00 | 1.00 | 0.50 | 33% | 30.00 |" in compare_methods.markdown_of(rows)


def test_packages_that_are_missing_are_named_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(compare_methods.importlib.util, "find_spec", lambda name: None)
    assert list(compare_methods.classical_methods()) == ["composite", "mean/std in Lab"]
    assert "opencv-python-headless must be installed" in caplog.text and "color-matcher must be installed" in caplog.text


def test_classical_methods_leave_the_background():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:50] = True
    for name, method in compare_methods.classical_methods().items():
        out = method(image, mask)
        assert out.shape == image.shape and out.dtype == np.uint8 and np.array_equal(out[~mask], image[~mask]), name


def test_every_method_is_measured_and_shown(tmp_path):
    demo, photos = ROOT / "assets" / "demo", tmp_path / "data" / "Photos"
    for folder, name, source in (("composite_images", "a_1_1", "composite"), ("masks", "a_1", "mask"), ("real_images", "a", "real")):
        (photos / folder).mkdir(parents=True)
        Image.open(demo / f"{source}.png").resize((96, 64)).save(photos / folder / f"{name}.png")
    (tmp_path / "data" / "IHD_test.txt").write_text("Photos/composite_images/a_1_1.png\n")
    found = compare_methods.compare_methods(compare_methods.CompareConfig(tmp_path / "data", tmp_path / "out"))
    assert list(found["rows"])[0] == "composite" and list(found["rows"])[-4:] == list(compare_methods.OURS)
    assert all(row["fMSE"] >= 0 for row in found["rows"].values()) and found["worst"]["ratio"] == found["rows"]["ours, transfer"]["ratio"]
    for name in ("best", "median", "worst"):
        assert Image.open(tmp_path / "out" / f"{name}.png").size[0] > 200
