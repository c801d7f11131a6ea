"""What comes in from other nodes: overshoot of the host's resizes, other ranges, masks that are none. Without the host."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diffharmony.common.assets import ROOT


@pytest.fixture
def host_images(monkeypatch):
    """nodes/host_images.py, in a package that does not import the host."""
    package = ModuleType("diffharmony.nodes")
    package.__path__ = [str(ROOT / "nodes")]
    monkeypatch.setitem(sys.modules, "diffharmony.nodes", package)
    monkeypatch.delitem(sys.modules, "diffharmony.nodes.host_images", raising=False)
    yield importlib.import_module("diffharmony.nodes.host_images")
    sys.modules.pop("diffharmony.nodes.host_images", None)


def drawn(height=40, width=60):
    mask = torch.zeros(1, height, width)
    mask[:, 10:30, 20:45] = 1
    mask[:, 5, 5:50:2] = 1  # thin lines overshoot most
    return mask


@pytest.mark.parametrize("size", [(90, 150), (31, 47)])
def test_overshoot_of_a_bicubic_resize_is_clamped(host_images, size):
    resized = F.interpolate(drawn()[:, None], size=size, mode="bicubic")  # as the host's common_upscale
    assert resized.min() < -0.05 and resized.max() > 1.05
    image = torch.zeros(1, 3, *size)
    assert torch.equal(host_images.mask_for(resized[:, 0], image), host_images.mask_for(resized[:, 0].clamp(0, 1), image))
    planes = host_images.to_planes(resized.expand(1, 3, *size).movedim(1, -1))
    assert torch.equal(planes, resized.clamp(0, 1).expand_as(planes))


@pytest.mark.parametrize(("scale", "shift"), [(255, 0), (2, -1), (1, 1), (float("nan"), 0), (2, 0)])
def test_other_ranges_are_refused(host_images, scale, shift):
    values = drawn() * scale + shift
    with pytest.raises(ValueError, match="mask must lie between 0 and 1, got values from .*. Scale it there first."):
        host_images.mask_for(values, torch.zeros(1, 3, 40, 60))
    with pytest.raises(ValueError, match="image must lie between 0 and 1"):
        host_images.to_planes(values[..., None].expand(1, 40, 60, 3))


def test_values_in_range_are_left_bit_for_bit(host_images):
    image = torch.rand(2, 8, 9, 4)
    assert torch.equal(host_images.to_planes(image), image[..., :3].movedim(-1, 1))


def test_a_level_beside_black_or_white_is_black_or_white(host_images):
    mask = drawn() * 253 / 255 + 1 / 255
    assert torch.equal(host_images.mask_for(mask, torch.zeros(1, 3, 40, 60))[:, 0], drawn())


@pytest.mark.parametrize(("mask", "message"), [
    (drawn() * 0, "mask must have foreground .* got none: it is black. Load a mask with 'Load Image .as Mask.'"),
    (drawn() / 255, "mask must have foreground .* got values 0 and 1"),
    (torch.from_numpy(np.array(Image.open(ROOT / "assets/demo/real.png").convert("RGB"))[None, ..., 0] / np.float32(255)), "got a photograph in grey"),
], ids=["black", "0 and 1", "red channel of a photograph"])  # fmt: skip
def test_what_is_no_mask_is_refused(host_images, mask, message):
    with pytest.raises(ValueError, match=message):
        host_images.mask_for(mask, torch.zeros(1, 3, *mask.shape[-2:]))
