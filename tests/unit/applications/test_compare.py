"""The comparison table's own sums, sheet and optional packages."""

import numpy as np
import pytest
from PIL import Image

from diffharmony.applications.tiny import compare as compare_methods
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


def test_sheet_has_a_row_for_each():
    pictures = {"a": Image.new("RGB", (50, 40), "red"), "b": Image.new("L", (50, 40))}
    assert compare_methods.contact_sheet([("x", pictures), ("y", pictures)], side=32).size == (72, 144)
