"""Paired differences and bootstrap intervals, against plain numpy."""

import math

import numpy as np
import pytest

from diffharmony.evaluation import Measurement
from diffharmony.evaluation.comparison import bootstrap_interval, compare


def measurements(seed, shift, count=60):
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(0).gamma(2, 100, count)
    return [
        Measurement(40 - math.log(value + 1), value / 10, value + shift + rng.normal(0, 5), 0.0, 0.02 + 0.005 * index)
        for index, value in enumerate(shared)
    ]


def test_interval_depends_on_the_seed_alone(monkeypatch):
    values = np.random.default_rng(1).normal(size=50)
    first = bootstrap_interval(values, resamples=500, seed=0)
    assert first == bootstrap_interval(values, resamples=500, seed=0) != bootstrap_interval(values, resamples=500, seed=1)
    monkeypatch.setattr("diffharmony.evaluation.comparison.VALUES_AT_ONCE", 64)
    assert first == bootstrap_interval(values, resamples=500, seed=0)  # in small pieces
    assert bootstrap_interval(np.full(9, 0.1), seed=0) == (0.1, 0.1)
    with pytest.raises(ValueError, match="at least one number"):
        bootstrap_interval(np.array([]))


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3, 1, 60), resamples=300, seed=trial)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairs_are_the_images_that_both_have():
    a, b = measurements(1, 0), measurements(2, 20)
    a[0], b[1] = None, None
    b[2] = Measurement(30, 1, math.nan, 0, 0.0)
    subsets = ["X" if index % 3 else "Y" for index in range(60)]
    (found,) = compare({"first": a, "second": b}, subsets, resamples=2000, seed=0, progress=False)
    assert (found["a"], found["b"], found["count"]) == ("first", "second", 58)
    differences = np.array([y.fmse - x.fmse for x, y in zip(a, b) if x and y and not math.isnan(y.fmse)])
    fmse = found["overall"]["fMSE"]
    assert fmse["count"] == 57 and fmse["difference"] == pytest.approx(differences.mean())
    assert fmse["low"] < differences.mean() < fmse["high"] and fmse["low"] > 10
    assert fmse["b_better"] == pytest.approx((differences < 0).mean())
    assert sum(group["count"] for group in found["subsets"].values()) == 58 == sum(group["count"] for group in found["ranges"].values())
    spread = differences.std() / math.sqrt(57)  # pairing takes out what the images share
    assert fmse["high"] - fmse["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert found["overall"]["bMSE"]["low"] == found["overall"]["bMSE"]["high"] == 0 == found["overall"]["bMSE"]["b_better"]


def test_better_is_more_psnr_and_less_error():
    a, b = [Measurement(30, 9, 9, 9, 0.5)] * 3, [Measurement(31, 8, 10, 9, 0.5)] * 3
    overall = compare({"a": a, "b": b}, ["S"] * 3, resamples=10, seed=0, progress=False)[0]["overall"]
    assert [overall[figure]["b_better"] for figure in ("PSNR", "MSE", "fMSE", "bMSE")] == [1, 1, 0, 0]


def test_three_methods_make_three_comparisons():
    methods = {name: measurements(seed, 0, 5) for seed, name in enumerate("abc")}
    found = compare(methods, ["S"] * 5, resamples=10, seed=0, progress=False)
    assert [(one["a"], one["b"]) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found[0]["ranges"]["15-100"] == {"count": 0, "PSNR": None, "MSE": None, "fMSE": None, "bMSE": None}
