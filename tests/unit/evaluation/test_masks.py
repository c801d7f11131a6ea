"""evaluate() on masks of every sort: what counts as foreground, and what is no mask."""

import numpy as np
import pytest
from PIL import Image

from diffharmony.evaluation import evaluate, measure
from diffharmony.tests.unit.evaluation.test_evaluate import HEIGHT, WIDTH, noise, write_pair
from diffharmony.train.config import DataConfig
from diffharmony.train.data.dataset import HarmonizationDataset


def test_a_16_bit_mask_counts_as_the_same_mask_in_8_bits(tmp_path):
    results, samples = [], []
    for dtype, grey in ((np.uint8, 76), (np.uint16, 76 * 257)):
        root = tmp_path / dtype.__name__
        for folder in ("composite_images", "masks", "real_images"):
            (root / "S" / folder).mkdir(parents=True)
        mask = np.full((HEIGHT, WIDTH), grey, dtype)
        mask[:20] = np.iinfo(dtype).max
        Image.fromarray(mask).save(root / "S" / "masks" / "a_1.png")
        Image.fromarray(noise(0)).save(root / "S" / "real_images" / "a.png")
        Image.fromarray(noise(1)).save(root / "S" / "composite_images" / "a_1_1.png")
        (root / "list.txt").write_text("S/composite_images/a_1_1.png\n")
        results.append(evaluate(root, "list.txt", root / "S" / "composite_images", size=None, progress=False)["overall"])
        samples.append(HarmonizationDataset(DataConfig(roots=(root,), list_file="list.txt", size=64, flip=False), seed=0)[0]["mask"])
    assert results[0] == results[1]
    assert samples[0].equal(samples[1]) and samples[1].mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("size", [None, 256, 40])
def test_a_mask_of_another_size_than_its_real_image_is_refused(tmp_path, size):
    write_pair(tmp_path, Image.new("L", (40, 40), 255))
    with pytest.raises(ValueError, match=r"a0_1.png must have its real image's size \(120, 80\), got \(40, 40\). Mend the data set."):
        evaluate(tmp_path, "list.txt", baselines=["composite", "colour_transfer"], size=size, progress=False)


def test_all_damaged_real_images_and_masks_are_named(tmp_path):
    for number in range(9):
        write_pair(tmp_path, Image.new("L", (WIDTH, HEIGHT), 255), number)
    (tmp_path / "S/masks/a1_1.png").write_bytes(b"damaged")
    (tmp_path / "S/real_images/a6.png").write_bytes(b"damaged")
    Image.new("L", (WIDTH, 9), 255).save(tmp_path / "S/masks/a3_1.png")
    with pytest.raises(ValueError) as caught:
        evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", workers=1, progress=False)
    message = str(caught.value)
    assert [name in message for name in ("a1_1.png must be a readable image", "a3_1.png must have its", "a6.png must be")] == [True] * 3
    for number in range(9):
        (tmp_path / f"S/masks/a{number}_1.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"a4_1.png must be a readable image(?!.*a5_1).* And 5 more such files\.$"):
        evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", progress=False)


def test_a_mask_may_lie_in_transparency(tmp_path):
    """As the nodes and `harmonize` read it; a palette's and a grey picture's too."""
    alpha = Image.new("L", (WIDTH, HEIGHT), 0)
    alpha.paste(255, (0, 0, WIDTH, 20))
    palette = alpha.point(lambda value: value // 255).convert("P")
    palette.putpalette([9, 9, 9] * 2)
    masks = {"plain": alpha, "colour": Image.new("RGB", alpha.size, "white"), "grey": Image.new("L", alpha.size, 0), "palette": palette}
    masks["colour"].putalpha(alpha)
    masks["grey"].putalpha(alpha)
    found = {}
    for name, mask in masks.items():
        write_pair(tmp_path / name, mask)
        if name == "palette":
            mask.save(tmp_path / name / "S/masks/a0_1.png", transparency=bytes([0, 255]))
        baselines = ["composite", "colour_transfer"]
        result = evaluate(tmp_path / name, "list.txt", baselines=baselines, out=tmp_path / name / "out", cases=1, progress=False)
        pictures = (tmp_path / name / "out" / "index.html").read_text().split('"pictures":')[1]
        found[name] = [table["overall"] for table in result["predictions"]], result["predictions"][0]["ranges"], pictures
    assert found["plain"][1]["15-100"]["count"] == 1
    for name in ("colour", "grey", "palette"):
        assert found[name] == found["plain"], name


def test_an_opaque_coloured_mask_is_dithered_as_published(tmp_path):
    mask = Image.fromarray(np.where(noise(7)[..., :1] > 128, np.uint8([230, 180, 90]), np.uint8(0)))
    write_pair(tmp_path, mask)
    result = evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", resamples=0, progress=False)
    assert result["overall"]["fMSE"] == pytest.approx(measure(Image.fromarray(noise(1)), Image.fromarray(noise(0)), mask).fmse)


@pytest.mark.parametrize("fill", [0, 1])
def test_masks_without_foreground_are_told_of_and_refused_where_all_are(tmp_path, fill, caplog):
    write_pair(tmp_path, Image.new("L", (WIDTH, HEIGHT), fill))
    found = "it is black" if fill == 0 else "values 0 and 1, which are both black"
    with pytest.raises(ValueError, match=f"at least one of 1 mask must have foreground, got none. .*a0_1.png must have foreground .*{found}"):
        evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", resamples=0, progress=False)
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(200, (0, 0, 50, 50))
    write_pair(tmp_path, mask, number=1)
    assert evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", resamples=0, progress=False)["overall"]["count"] == 2
    assert "1 mask of 2 without foreground" in caplog.text
    assert "1 mask well under white" in caplog.text and "a1_1.png is nowhere brighter than 200 of 255" in caplog.text


def test_a_picture_in_the_place_of_a_mask_is_refused(tmp_path):
    write_pair(tmp_path, Image.fromarray(noise(7)))
    with pytest.raises(ValueError, match="a0_1.png must be white foreground on black, as masks are, got a picture in colour"):
        evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", resamples=0, progress=False)
