"""The committed models of assets/tiny, held to the floors of issue 2 on a few test composites made on the spot.

The whole report is `python -m diffharmony.applications.tiny.report`.
"""

from pathlib import Path

import pytest

from diffharmony.applications.tiny.measures import BASE_FILE, HARMONY_FILE, UNET_FILE, decode_gains, load_models
from diffharmony.common.images import load_image, load_mask, tensor_to_pil
from diffharmony.dataset.pairs import read_list
from diffharmony.diffusion import harmonize
from diffharmony.evaluation import measure
from diffharmony.synthetic.dataset import write_test_set

ASSETS = Path(__file__).parents[3] / "assets" / "tiny"
MEGABYTES = 14


@pytest.fixture(scope="module")
def models():
    return load_models(ASSETS)


def make_pairs(root, size, per_range):
    write_test_set(root, size=size, composites_per_range=per_range, workers=1)
    return list(enumerate(read_list(root, "IHD_test.txt")))


def test_the_files_are_small_enough_for_a_repository():
    assert sum((ASSETS / name).stat().st_size for name in (BASE_FILE, HARMONY_FILE, UNET_FILE)) <= MEGABYTES * 1e6


def test_conditional_decode_beats_the_plain_decode(models, tmp_path):
    figures = decode_gains(models, make_pairs(tmp_path, 128, 4), "128 px")
    assert min(figures["gain"], figures["gain_over_own_decoder"]) >= 6, figures


def test_harmonized_composites_come_closer_to_the_real_images(models, tmp_path):
    # 256 px and 60 composites are what the floor is set for; on 24 composites one seed more or less decides
    before = after = 0.0
    for index, pair in make_pairs(tmp_path, 256, 20):
        composite, mask = load_image(pair.composite), load_mask(pair.mask)
        harmonized = harmonize(models.vae, models.unet, composite, mask, seed=index)
        pictures = [tensor_to_pil(image)[0] for image in (composite, harmonized, load_image(pair.real), mask.expand(-1, 3, -1, -1) * 2 - 1)]
        before, after = (
            total + measure(picture, *pictures[2:], size=None, real_background=False).fmse for total, picture in zip((before, after), pictures)
        )
    assert after < 0.85 * before
