"""The mask of a cut: only the part around the foreground is resized, and nothing else may be seen of that."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from diffharmony.dataset.pairs import BadImage, Pair
from diffharmony.train.data.crops import _two_level, read_crop


def ellipses(rng, width, height, count):
    mask = Image.new("L", (width, height))
    for _ in range(count):
        (x, y), (rx, ry) = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.02, 0.3, 2) * (width, height)
        ImageDraw.Draw(mask).ellipse((x - rx, y - ry, x + rx, y + ry), fill=int(rng.choice([255, 200])))
    return mask


@pytest.mark.parametrize("width, height", [(90, 64), (640, 480), (61, 173)])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_is_that_of_the_whole_mask(width, height, size):
    rng = np.random.default_rng(size + width)
    for count in (0, 1, 1, 2, 3):
        mask = ellipses(rng, width, height, count)
        for box in ((0, 0, width, height), (width // 5, height // 3, width - 3, height - height // 6)):
            found = _two_level(mask, box, size)
            assert found.shape == (size, size) and found.dtype == np.uint8
            part = torch.from_numpy(np.array(mask, dtype=np.float32))[box[1] : box[3], box[0] : box[2]]
            whole = F.interpolate(part[None, None], size=(size, size), mode="bilinear", antialias=True)[0, 0].numpy()
            wrong = found != (whole >= 128)
            # Pillow takes in what lies beyond the box, and of strong reductions a first part by plain averaging
            inner = wrong[2:-2, 2:-2] & (np.abs(whole - 128) > 20)[2:-2, 2:-2]
            assert not inner.any() and wrong.mean() < 0.01


def test_a_foreground_outside_the_box_is_none_of_it():
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 8, 8))
    assert not _two_level(mask, (32, 32, 64, 64), 32).any() and _two_level(mask, (0, 0, 7, 7), 28).all()


@pytest.mark.parametrize("bad", ["composite", "mask", "real"])
def test_floating_values_are_refused(tmp_path, bad):
    """Pillow would cut 0..1 to black."""
    paths = {name: tmp_path / f"{name}.tif" for name in ("composite", "mask", "real")}
    for name, path in paths.items():
        Image.fromarray(np.full((40, 40), 0.5, np.float32) if name == bad else np.full((40, 40), 200, np.uint8)).save(path)
    with pytest.raises(BadImage, match=f"{bad}.tif must have 8 or 16 bits per channel, got floating values. Export it as PNG.") as caught:
        read_crop(Pair(**paths, subset="S"), 32, min_crop=1.0, flip=False, rng=np.random.default_rng(0))
    assert caught.value.path == paths[bad]


@pytest.mark.parametrize(("values", "message"), [
    (np.zeros((40, 40), np.uint8), "must have foreground .* got none: it is black"),
    (np.eye(40, dtype=np.uint8), "must have foreground .* got values 0 and 1, which are both black"),
    (np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8), "must be white foreground on black, .* got a picture in colour"),
], ids=["black", "0 and 1", "picture"])  # fmt: skip
def test_what_is_no_mask_is_refused(tmp_path, values, message):
    paths = {name: tmp_path / f"{name}.png" for name in ("composite", "mask", "real")}
    for name, path in paths.items():
        Image.fromarray(values if name == "mask" else np.zeros((40, 40, 3), np.uint8)).save(path)
    with pytest.raises(BadImage, match=f"mask.png {message}") as caught:
        read_crop(Pair(**paths, subset="S"), 32, min_crop=1.0, flip=False, rng=np.random.default_rng(0))
    assert caught.value.path == paths["mask"]
