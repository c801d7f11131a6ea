"""The committed models of assets/tiny, held to the floors of issue 2 on a few test composites made on the spot."""

import os
from pathlib import Path

import pytest

from diffharmony.evaluation.tiny_measures import BASE_FILE, HARMONY_FILE, UNET_FILE, decode_gains, end_to_end, load_models
from diffharmony.train.data import read_list
from diffharmony.train.synthetic.dataset import write_test_set

ASSETS = Path(os.environ.get("DIFFHARMONY_TINY", Path(__file__).parents[2] / "assets" / "tiny"))
PER_RANGE = 8
MEGABYTES = 14


@pytest.fixture(scope="module")
def models():
    return load_models(ASSETS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny") / "test-128"
    write_test_set(root, size=128, composites_per_range=PER_RANGE, workers=1)
    return list(enumerate(read_list(root, "IHD_test.txt")))


def test_the_files_are_small_enough_for_a_repository():
    assert sum((ASSETS / name).stat().st_size for name in (BASE_FILE, HARMONY_FILE, UNET_FILE)) <= MEGABYTES * 2**20


def test_conditional_decode_beats_the_plain_decode(models, pairs):
    figures = decode_gains(models, pairs, "128 px")
    assert figures["gain"] >= 6 and figures["gain_over_own_decoder"] >= 6, figures


def test_harmonized_composites_come_closer_to_the_real_images(models, pairs):
    rows = end_to_end(models, pairs, steps=5, seed=0)
    before, after = (sum(row.measurements[name].fmse for row in rows) for name in ("composite", "conditional_pasted"))
    assert after < 0.85 * before
