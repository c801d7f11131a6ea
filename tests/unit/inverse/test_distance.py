"""The distance of candidates from their real image."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from diffharmony.common.images import tensor_to_pil
from diffharmony.evaluation import measure
from diffharmony.inverse.distance import distances_from_real


def made():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 30, 40), generator=generator) / 127.5 - 1
    mask = torch.zeros(1, 1, 30, 40)
    mask[..., 4:20, 7:30] = 1
    return images[1:], images[:1], mask


def test_it_is_the_evaluations_fmse():
    candidates, real, mask = made()
    picture, stencil = tensor_to_pil(real)[0], Image.fromarray((mask[0, 0].numpy() * 255).astype("uint8"))
    expected = [measure(candidate, picture, stencil, size=None, real_background=False).fmse for candidate in tensor_to_pil(candidates)]
    assert distances_from_real(candidates, real, mask).tolist() == pytest.approx(expected, rel=1e-5)


def test_what_is_outside_the_mask_does_not_count():
    candidates, real, mask = made()
    assert distances_from_real(torch.where(mask > 0, real, candidates), real, mask).tolist() == [0, 0, 0]


def test_what_does_not_fit_is_refused():
    candidates, real, mask = made()
    with pytest.raises(ValueError, match="candidates must be of one real image's size"):
        distances_from_real(candidates[..., 1:], real, mask)
    with pytest.raises(ValueError, match="mask must have foreground"):
        distances_from_real(candidates, real, mask * 0.4)
