"""Never worse: the shrinking of predicted changes, fitted to validation records and carried by the checkpoint."""

import json

import numpy as np
import pytest
import torch

from diffharmony.diffusion.calibration import ALLOWED_WORSE, Calibration, Record, draw_calibration, fit_calibration, share_worse


def records(noise=10.0, count=240, seed=0):
    """Changes of many sizes, predicted with an error that does not depend on them: three gains each."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, 3)) * np.exp(rng.uniform(0, 4, (count, 1)))
    predicted = true + noise * rng.normal(size=true.shape)

    def size(values):
        return np.sqrt((values**2).mean(axis=1))

    return [Record(*row) for row in np.stack([size(predicted), size(true), size(predicted - true)], axis=1).tolist()]


def squared_error(found, calibration):
    p, t, e = torch.tensor(found).T
    factor = calibration.shrinkage(p)
    return (factor**2 * p**2 - factor * (p**2 + t**2 - e**2) + t**2).sum().item()


def test_it_rises_from_none_to_nearly_all():
    calibration = fit_calibration(records())
    assert list(calibration.factor) == sorted(calibration.factor) and list(calibration.floor) == sorted(calibration.floor)
    assert calibration.factor[0] < 0.3 and calibration.factor[-1] > 0.8
    found = calibration.shrinkage(torch.linspace(0, 200, 400))
    assert found[0] == 0 and (found.diff() >= -1e-6).all() and found.max() <= 1


def test_new_images_are_less_often_worse_and_nearer():
    calibration, fresh = fit_calibration(records()), records(seed=1)
    assert share_worse(fresh) > 0.3 and share_worse(fresh, calibration) < ALLOWED_WORSE + 0.05
    unshrunk = sum(record.error**2 for record in fresh)
    assert squared_error(fresh, calibration) < 1.05 * unshrunk
    small = [record for record in fresh if record.true < 5]
    assert squared_error(small, calibration) < 0.3 * sum(record.error**2 for record in small)


def test_a_perfect_model_is_left_alone():
    perfect = [Record(size, size, 0.0) for size in np.linspace(1, 50, 60)]
    assert fit_calibration(perfect).shrinkage(torch.tensor([5.0, 50.0])).min() > 0.98


def test_json_round_trip_and_refusals():
    calibration = fit_calibration(records())
    again = Calibration.from_json(calibration.to_json())
    np.testing.assert_allclose(again.factor, calibration.factor, atol=1e-4)
    whole = {"change": [1, 2], "factor": [0, 1], "floor": [1, 1], "count": 9}
    damages = ({"change": [2, 1]}, {"change": [2, 2]}, {"change": ["a", 2]}, {"floor": [-5, 1]}, {"floor": [2, 1]}, {"count": 0})
    assert Calibration.from_json(json.dumps(whole)).count == 9
    for text in ("[]", "{}", "no", *(json.dumps(whole | damage) for damage in damages)):
        with pytest.raises(ValueError, match="calibration must"):
            Calibration.from_json(text)
    with pytest.raises(ValueError, match="records must be at least 12, got 3"):
        fit_calibration(records()[:3])
    with pytest.raises(ValueError, match="finite sizes"):
        fit_calibration([Record(float("nan"), 1, 1)] * 20)


def test_one_knot_serves_every_change():
    single = Calibration((10.0,), (0.5,), (5.0,), 12)
    torch.testing.assert_close(single.shrinkage(torch.tensor([0.0, 5.0, 10.0, 99.0])), torch.tensor([0.0, 0.125, 0.5, 0.5]))


def test_picture(tmp_path):
    found = records()
    draw_calibration(found, fit_calibration(found), tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 5000
