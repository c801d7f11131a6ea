"""What the report says of candidates: differences by hand, and the tiny pair's own."""

import json
import math

import pytest
import torch

from diffharmony.applications.tiny.candidate_report import CandidateReport, make_report, measure_candidates, report_text
from diffharmony.common.assets import TINY
from diffharmony.common.images import load_image
from diffharmony.tests.made.training import make_pairs


def test_differences_by_hand():
    real, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1
    candidates = torch.zeros(3, 3, 4, 4)
    for index, value in enumerate((1, 2, 4)):
        candidates[index, :, :2] = value / 127.5
    found = measure_candidates(candidates, real, mask)
    assert found["from_real"] == pytest.approx(7 / 3, rel=1e-5) and found["least_from_real"] == pytest.approx(1, rel=1e-5)
    assert found["from_each_other"] == pytest.approx((1 + 3 + 2) / 3, rel=1e-5) and found["outside"] == 0
    candidates[1, 0, 3, 3] = 5 / 127.5
    assert measure_candidates(candidates, real, mask)["outside"] == pytest.approx(5, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        measure_candidates(candidates[:1], real, mask)


def test_the_tiny_pairs_report(tmp_path):
    root = make_pairs(tmp_path / "data")
    list_file = next(path.name for path in sorted(root.glob("*.txt")))
    report = make_report(CandidateReport(root, list=list_file, limit=2, candidates=3, out=tmp_path / "out", device="cpu"))
    assert report["outside"] == 0 and report["pairs"] == len(report["rows"]) == 2
    assert report["from_each_other"] > 0 and report["ratio"] == pytest.approx(report["from_each_other"] / report["from_real"])
    assert math.isfinite(report["mean_of_ratios"]) and "2 real images" in report_text(report)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"] == report["rows"]
    picture = load_image(tmp_path / "out" / "candidates.png")
    assert picture.shape[-1] > 5 * 128  # real image, mask, three candidates


def test_harmonization_models_are_refused(tmp_path):
    root = make_pairs(tmp_path / "data")
    list_file = next(path.name for path in sorted(root.glob("*.txt")))
    with pytest.raises(ValueError, match="must be of direction 'invert', got 'harmonize'"):
        make_report(CandidateReport(root, list=list_file, limit=1, vae=TINY / "harmony_vae.safetensors", device="cpu"))
