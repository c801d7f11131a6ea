"""evaluate() and its command: folders of predictions against a small data set in iHarmony4's layout."""

import json

import numpy as np
import pytest
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.evaluation import evaluate, measure
from diffharmony.train.config import DataConfig
from diffharmony.train.data import HarmonizationDataset

WIDTH, HEIGHT = 120, 80
# subset, stem, mask rows out of 80
COMPOSITES = [("HCOCO", "c1_1_1", 2), ("HCOCO", "c2_1_1", 8), ("HFlickr", "f1_1_1", 40), ("HFlickr", "f1_2_1", 20)]


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four composites in two subsets, a folder of good predictions and one with every sort of bad one."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("composite_images", "masks", "real_images"):
        for subset in ("HCOCO", "HFlickr"):
            (root / subset / folder).mkdir(parents=True)
    (root / "good").mkdir()
    (root / "bad").mkdir()
    for number, (subset, stem, rows) in enumerate(COMPOSITES):
        image, mask_number, _ = stem.split("_")
        real = noise(ord(stem[1]))
        Image.fromarray(real).save(root / subset / "real_images" / f"{image}.jpg", quality=95)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:rows] = 255
        Image.fromarray(mask).save(root / subset / "masks" / f"{image}_{mask_number}.png")
        Image.fromarray(noise(number)).save(root / subset / "composite_images" / f"{stem}.jpg", quality=95)
        suffix = "jpg" if number == 1 else "png"
        Image.fromarray(noise(100 + number)).save(root / "good" / f"{stem}.{suffix}")
    # c1 is missing, c2 is damaged, f1_1 has another shape; f1_2 is a square, as models write it
    (root / "bad" / "c2_1_1.png").write_bytes((root / "good" / "c2_1_1.jpg").read_bytes()[:40])
    Image.fromarray(noise(0)[:, :90]).save(root / "bad" / "f1_1_1.png")
    Image.fromarray(noise(0)).resize((512, 512)).save(root / "bad" / "f1_2_1.png")
    names = [f"{subset}/composite_images/{stem}.jpg" for subset, stem, _ in COMPOSITES]
    (root / "IHD_test.txt").write_text("\n".join(names) + "\n")
    (root / "test.jsonl").write_text("".join(json.dumps({"file_name": name, "text": ""}) + "\n" for name in names[:2]))
    return root


def test_overall_subsets_and_ranges(root):
    result = evaluate(data=root, list_file="IHD_test.txt", predictions=[root / "good"], progress=False)
    expected = {}
    for number, (subset, stem, _) in enumerate(COMPOSITES):
        image, mask, _ = stem.split("_")
        suffix = "jpg" if number == 1 else "png"
        parts = root / "good" / f"{stem}.{suffix}", root / subset / f"real_images/{image}.jpg", root / subset / f"masks/{image}_{mask}.png"
        expected[stem] = measure(*map(Image.open, parts))

    def fmse(*stems):
        return pytest.approx(np.mean([expected[stem].fmse for stem in stems]))

    assert result["overall"]["count"] == 4 and result["overall"]["fMSE"] == fmse(*expected)
    assert result["overall"]["PSNR"] == pytest.approx(np.mean([item.psnr for item in expected.values()]))
    assert result["overall"]["bMSE"] == 0  # the real background is pasted in
    assert result["subsets"]["HCOCO"]["fMSE"] == fmse("c1_1_1", "c2_1_1") and result["subsets"]["HFlickr"]["count"] == 2
    assert [result["ranges"][name]["count"] for name in ("0-5", "5-15", "15-100")] == [1, 1, 2]
    assert result["ranges"]["0-5"]["fMSE"] == fmse("c1_1_1")
    assert result["predictions"][0]["overall"] == result["overall"]
    json.dumps(result, allow_nan=False)


def test_background_switch_and_own_size(root):
    pasted, plain = (evaluate(root, predictions=root / "good", real_background=switch, progress=False) for switch in (None, False))
    assert pasted["real_background"] is True and plain["overall"]["bMSE"] > 0
    assert plain["overall"]["fMSE"] == pasted["overall"]["fMSE"]
    own = evaluate(root, predictions=root / "good", size=None, progress=False)
    assert own["overall"]["count"] == 4 and own["overall"]["fMSE"] > pasted["overall"]["fMSE"]  # noise is smoothed by resizing


def test_unusable_predictions_are_named(root):
    result = evaluate(root, "IHD_test.txt", [root / "good", root / "bad"], progress=False)
    good, bad = result["predictions"]
    assert (bad["missing"], bad["unreadable"], bad["wrong_size"]) == (["c1_1_1"], ["c2_1_1.png"], ["f1_1_1.png"])
    assert bad["overall"]["count"] == 1 and list(bad["subsets"]) == ["HFlickr"]
    assert good["missing"] == good["unreadable"] == good["wrong_size"] == []
    assert bad["ranges"]["0-5"]["PSNR"] is None
    own = evaluate(root, predictions=[root / "good", root / "bad"], size=64, progress=False)["predictions"][1]
    assert own["wrong_size"] == ["f1_1_1.png"]


def test_masks_that_vanish_are_named(root):
    result = evaluate(root, predictions=root / "good", size=16, progress=False)
    assert result["predictions"][0]["without_foreground"] == ["c1_1_1"]
    assert result["overall"]["count"] == 4


def test_lists_by_path_and_in_json(root, tmp_path):
    assert evaluate(root, "test.jsonl", root / "good", progress=False)["overall"]["count"] == 2
    elsewhere = tmp_path / "some.txt"
    elsewhere.write_text("HCOCO/composite_images/c1_1_1.jpg\n")
    assert evaluate(root, elsewhere, root / "good", progress=False)["overall"]["count"] == 1


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


def test_what_cannot_be_evaluated_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="size must be a whole number of at least 1.*got 0"):
        evaluate(root, predictions=root / "good", size=0)
    with pytest.raises(ValueError, match="convention must be one of diffharmony, got 'pctnet'"):
        evaluate(root, predictions=root / "good", convention="pctnet")
    with pytest.raises(ValueError, match="at least one folder"):
        evaluate(root)
    with pytest.raises(FileNotFoundError, match="predictions folder 'nowhere' must exist"):
        evaluate(root, predictions=root / "nowhere")
    with pytest.raises(FileNotFoundError, match="list file 'other.txt' must exist.*Check data and list."):
        evaluate(root, "other.txt", root / "good")
    with pytest.raises(ValueError, match="c1_1_1.png or .jpg for the first, got none of the 4"):
        evaluate(root, predictions=[root / "good", tmp_path], progress=False)
    (tmp_path / "c2_1_1.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"3 missing \(first: c1_1_1\), 1 unreadable \(first: c2_1_1.png\)"):
        evaluate(root, predictions=tmp_path, progress=False)


def test_the_command_prints_a_table_or_json(root, capsys):
    command = ["evaluate", "--data", str(root), "--list", "IHD_test.txt", "--predictions", str(root / "good"), str(root / "bad"),
               "--convention", "diffharmony", "--no-real-background"]  # fmt: skip
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["real_background"] is False and result["overall"]["count"] == 4
    assert "1 missing" in printed.err and "c1_1_1" in printed.err and "15-100 %" in printed.err
    assert main(command) == 0 and "fMSE" in capsys.readouterr().out
    assert main([*command[:-2], "is2am"]) == 1
    assert "convention must be one of diffharmony, got 'is2am'" in capsys.readouterr().err
