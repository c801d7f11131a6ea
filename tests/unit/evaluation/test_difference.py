"""Where two images differ, made visible."""

import pytest
import torch

from diffharmony.evaluation.difference import difference_view


def test_both_views():
    before = torch.tensor([0.0, 0.0, 0.0, -1.0]).reshape(1, 1, 1, 4).expand(1, 3, 1, 4)
    after = torch.tensor([0.0, 0.1, -0.1, 1.0]).reshape(1, 1, 1, 4).expand(2, 3, 1, 4)
    shown = difference_view(after, before, 4.0)
    assert shown.shape == (2, 3, 1, 4) and shown[0, 0, 0].tolist() == pytest.approx([-1, -0.6, -0.6, 1])
    assert difference_view(after, before, 4.0, signed=True)[1, 2, 0].tolist() == pytest.approx([0, 0.4, -0.4, 1])


@pytest.mark.parametrize("gain", [0, -1, float("nan"), float("inf")])
def test_a_gain_that_shows_nothing_is_refused(gain):
    with pytest.raises(ValueError, match="gain must be a number above 0"):
        difference_view(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), gain)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="reference must be as large as image"):
        difference_view(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3))
