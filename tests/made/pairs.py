"""A small data set in iHarmony4's layout (SPEC §7), for tests of the training data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffharmony.train.config import DataConfig
from diffharmony.train.data.batches import make_loader
from diffharmony.train.data.sampler import BatchSampler

SIDE = 40


def write_pairs(root, names, *, suffix=".png", list_file="IHD_train.txt", side=SIDE):
    """Two composites of each named image, in iHarmony4's layout; of 40 x 48 px."""
    rng = np.random.default_rng(0)
    lines = []
    for name in names:
        subset, _, image = name.partition("/")
        for folder in ("composite_images", "masks", "real_images"):
            (root / subset / folder).mkdir(parents=True, exist_ok=True)
        real = rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
        Image.fromarray(real).save(root / subset / "real_images" / f"{image}{suffix}")
        for k in (1, 2):
            mask = np.zeros((side, side + 8), np.uint8)
            mask[5 * k : 5 * k + 12, 8:20] = 255
            Image.fromarray(mask).save(root / subset / "masks" / f"{image}_{k}.png")
            composite = np.where(mask[..., None] > 0, real // 2, real)
            Image.fromarray(composite).save(root / subset / "composite_images" / f"{image}_{k}_1{suffix}")
            lines.append(f"{subset}/composite_images/{image}_{k}_1{suffix}")
    (root / list_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def make_pairs(root):
    """A data set of six composites, in iHarmony4's layout, one name with a space and one with an umlaut; a list of JSON lines too."""
    names = write_pairs(root, ["HCOCO/a1", "HCOCO/a2", "HFlickr/größe 3"])
    (root / "train.jsonl").write_text("".join(json.dumps({"file_name": n, "text": ""}) + "\n" for n in names), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own(root, tmp_path):
    """A copy of `root` to damage."""
    shutil.copytree(root, tmp_path / "own")
    return tmp_path / "own"


def config_of(root, **changes):
    return DataConfig(**{"roots": (root,), "size": 32, "workers": 0, **changes})


def steps(dataset, *, batch_size, count, workers=0, **share):
    """The batches of `count` steps."""
    return list(make_loader(dataset, BatchSampler(batch_size=batch_size, steps=count, **share), workers))
