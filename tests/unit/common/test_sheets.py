"""The labelled sheet."""

from __future__ import annotations

import pytest
import torch

from diffharmony.common.sheets import GAP, LABEL_HEIGHT, labelled_sheet


def grey(*values: float, height=40, width=60) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, height, width)


def test_images_stand_row_by_row_above_their_labels():
    values = (-1.0, -0.5, 0.0, 0.5, -0.2)
    sheet = labelled_sheet(grey(*values), ["0.12", "", "", "", "0.99"])
    assert sheet.shape == (1, 3, 2 * (40 + LABEL_HEIGHT), 3 * (60 + GAP) - GAP)
    for index, value in enumerate(values):
        left, top = index % 3 * (60 + GAP), index // 3 * (40 + LABEL_HEIGHT)
        assert (sheet[..., top : top + 40, left : left + 60] - value).abs().max() <= 1 / 127
        label = sheet[..., top + 40 : top + 40 + LABEL_HEIGHT, left : left + 60]
        assert label.max() == 1 and (label.min() < -0.9) == (index in (0, 4))


def test_large_images_are_scaled_down():
    assert labelled_sheet(grey(0.0, height=600, width=1000), ["a"], side=100).shape == (1, 3, 60 + LABEL_HEIGHT, 100)


def test_every_image_needs_its_label():
    with pytest.raises(ValueError, match="labels must be as many as images, 2, got 1"):
        labelled_sheet(grey(0.0, 1.0), ["a"])
