"""The committed models of assets/tiny, held to the floors of issue 2 on a few test composites made on the spot.

The whole report is `python -m diffharmony.applications.tiny.report`.
"""

from diffharmony.applications.tiny.report import decode_gains
from diffharmony.common.assets import TINY
from diffharmony.common.images import load_image, load_mask, tensor_to_pil
from diffharmony.dataset.pairs import read_list
from diffharmony.diffusion import harmonize, load_unet
from diffharmony.evaluation import measure
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.synthetic.dataset import write_test_set

MODELS = {name: TINY / f"{name}.safetensors" for name in ("vae", "harmony_vae", "harmonization_unet")}
MEGABYTES = 14


def make_pairs(root, size, per_range):
    write_test_set(root, size=size, composites_per_range=per_range, workers=1)
    return read_list(root, "IHD_test.txt")


def test_the_files_are_small_enough_for_a_repository():
    assert sum(path.stat().st_size for path in MODELS.values()) <= MEGABYTES * 1e6


def test_conditional_decode_beats_the_plain_decode(tmp_path):
    figures = decode_gains(MODELS, make_pairs(tmp_path, 128, 4), "128 px")
    assert min(figures["gain"], figures["gain_over_own_decoder"]) >= 6, figures


def test_harmonized_composites_come_closer_to_the_real_images(tmp_path):
    # at 30 composites two seeds give 0.74 and 0.72, at 60 both halves 0.72 and 0.73; at 20 a third of them alone decides (0.63 to 0.89)
    vae, unet = load_harmony_vae(MODELS["harmony_vae"]), load_unet(MODELS["harmonization_unet"])
    before = after = 0.0
    for index, pair in enumerate(make_pairs(tmp_path, 256, 10)):
        composite, mask = load_image(pair.composite), load_mask(pair.mask)
        harmonized = harmonize(vae, unet, composite, mask, seed=index)
        pictures = [tensor_to_pil(image)[0] for image in (composite, harmonized, load_image(pair.real), mask.expand(-1, 3, -1, -1) * 2 - 1)]
        before, after = (
            total + measure(picture, *pictures[2:], size=None, real_background=False).fmse for total, picture in zip((before, after), pictures)
        )
    assert after < 0.85 * before
