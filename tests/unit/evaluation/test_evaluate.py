"""evaluate() and its command: folders of predictions against a small data set in iHarmony4's layout."""

import csv
import json
import unicodedata
from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.commands.evaluate import EvaluateConfig
from diffharmony.evaluation import BASELINES, CONVENTIONS, colour_transfer, evaluate, measure, summarize

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


def test_what_cannot_be_evaluated_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="size must be a whole number of at least 1.*got 0"):
        evaluate(root, predictions=root / "good", size=0)
    with pytest.raises(ValueError, match="convention must be one of diffharmony, .*, got 'ours'"):
        evaluate(root, predictions=root / "good", convention="ours")
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, got 0"):
        evaluate(root, predictions=root / "good", workers=0)
    with pytest.raises(ValueError, match="baselines must be of composite, colour_transfer, got 'best'"):
        evaluate(root, baselines=["best"])
    with pytest.raises(ValueError, match="given once each"):
        evaluate(root, predictions=[root / "good", root / "bad" / ".." / "good"])
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
    result = json.loads(printed.out.splitlines()[-1])
    assert result["real_background"] is False and result["overall"]["count"] == 4
    assert "1 missing" in printed.err and "c1_1_1" in printed.err and "15-100 %" in printed.err and "bad - good" in printed.err
    assert main(command) == 0 and "fMSE" in capsys.readouterr().out
    for switches, expected in (([], False), (["--real-background"], True)):
        assert main([*command[:-3], "--convention", "is2am", *switches, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["convention"], result["real_background"]) == ("is2am", expected)
    assert main([*command, "--real-background"]) == 1 and "got both" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command[:-3], "--convention", "ours"])


def test_the_command_knows_every_convention_and_baseline():
    hints = get_type_hints(EvaluateConfig)
    assert get_args(hints["convention"]) == tuple(CONVENTIONS)
    assert get_args(get_args(hints["baselines"])[0]) == tuple(BASELINES)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_convention_reaches_the_figures(root, convention):
    for pasted in (None, True, False):
        result = evaluate(root, predictions=root / "good", convention=convention, real_background=pasted, resamples=0, progress=False)
        expected = [measured(root, root / "good", number, convention, pasted) for number in range(4)]
        for figure, value in summarize(expected).items():
            assert result["overall"][figure] == pytest.approx(value, rel=1e-9), (figure, pasted)


def measured(root, folder, number, convention="diffharmony", pasted=None):
    subset, stem, _ = COMPOSITES[number]
    image, mask, _ = stem.split("_")
    prediction = next(folder.glob(f"{stem}.*"))
    parts = prediction, root / subset / f"real_images/{image}.jpg", root / subset / f"masks/{image}_{mask}.png"
    return measure(*map(Image.open, parts), convention, real_background=pasted)


def test_any_number_of_workers_gives_the_same(root, tmp_path):
    """Composites that share a photograph lie apart in the list: f1 is first and third."""
    names = [f"{subset}/composite_images/{stem}.jpg" for subset, stem, _ in COMPOSITES]
    (tmp_path / "list.txt").write_text("\n".join([names[2], names[0], names[3], names[1]]))
    results = []
    for workers in (1, 2, 5):
        out = tmp_path / str(workers)
        results.append(evaluate(root, tmp_path / "list.txt", root / "good", workers=workers, out=out, cases=1, progress=False))
        assert (out / "images.csv").read_bytes() == (tmp_path / "1" / "images.csv").read_bytes()
    assert results[0] == results[1] == results[2]
    with (tmp_path / "1" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["f1_1_1", "c1_1_1", "f1_2_1", "c2_1_1"]
    assert float(rows[1]["fMSE"]) == pytest.approx(measured(root, root / "good", 0).fmse)


def test_baselines_are_measured_after_the_folders(root):
    result = evaluate(root, predictions=root / "good", baselines=["composite", "colour_transfer"], progress=False)
    assert [table["label"] for table in result["predictions"]] == ["good", "composite", "colour_transfer"]
    copied = evaluate(root, "test.jsonl", root / "HCOCO" / "composite_images", progress=False)["overall"]
    alone = evaluate(root, "test.jsonl", baselines=["composite"], progress=False)
    assert alone["overall"] == copied and alone["predictions"][0]["baseline"] == "composite"
    transferred = result["predictions"][2]["overall"]
    assert transferred["count"] == 4 and transferred["fMSE"] != result["predictions"][1]["overall"]["fMSE"]
    stem, mask = "f1_1_1", np.arange(HEIGHT)[:, None] < 40
    composite = np.asarray(Image.open(root / "HFlickr/composite_images" / f"{stem}.jpg"))
    expected = colour_transfer(composite, np.broadcast_to(mask, composite.shape[:2]))
    parts = Image.open(root / "HFlickr/real_images/f1.jpg"), Image.open(root / "HFlickr/masks/f1_1.png")
    (row,) = evaluate(root, one_line(root, stem), baselines=["colour_transfer"], progress=False)["predictions"]
    assert row["overall"]["fMSE"] == pytest.approx(measure(Image.fromarray(expected), *parts).fmse)


def one_line(root, stem):
    path = root / f"{stem}.txt"
    path.write_text(next(f"{subset}/composite_images/{name}.jpg" for subset, name, _ in COMPOSITES if name == stem))
    return path


def test_extra_files_and_subset_folders(root, tmp_path):
    for subset, stem, _ in COMPOSITES:
        place = tmp_path / (subset if subset == "HFlickr" else f"{subset}/composite_images")
        place.mkdir(parents=True, exist_ok=True)
        Image.open(next((root / "good").glob(f"{stem}.*"))).save(place / f"{stem}.PNG")
    Image.fromarray(noise(5)).save(tmp_path / "HFlickr" / "f1_1_1.jpg")
    Image.fromarray(noise(5)).save(tmp_path / "f9_1_1.png")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / ".f9_1_1-x1.png").write_bytes(b"")
    result = evaluate(root, predictions=tmp_path, progress=False)
    assert result["overall"] == evaluate(root, predictions=root / "good", progress=False)["overall"]
    assert result["predictions"][0]["extra"] == ["HFlickr/f1_1_1.jpg", "f9_1_1.png"]  # the list's own predictions are .PNG


def test_one_file_for_two_composites_is_refused(tmp_path):
    for subset in ("A", "B"):
        for folder in ("composite_images", "masks", "real_images"):
            (tmp_path / subset / folder).mkdir(parents=True)
        Image.fromarray(noise(1)).save(tmp_path / subset / "real_images/a.png")
        Image.fromarray(noise(2 if subset == "A" else 3)).save(tmp_path / subset / "composite_images/a_1_1.png")
        Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / subset / "masks/a_1.png")
    (tmp_path / "list.txt").write_text("A/composite_images/a_1_1.png\nB/composite_images/a_1_1.png\n")
    (tmp_path / "flat").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "flat/a_1_1.png")
    with pytest.raises(ValueError, match="a_1_1.png for 2 of the same name"):
        evaluate(tmp_path, "list.txt", tmp_path / "flat", progress=False)
    (tmp_path / "flat/a_1_1.png").unlink()
    (tmp_path / "flat/B").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "flat/B/a_1_1.png")
    result = evaluate(tmp_path, "list.txt", tmp_path / "flat", progress=False)
    assert result["predictions"][0]["missing"] == ["A/a_1_1"] and result["overall"]["MSE"] == 0


def test_spaces_accents_and_relative_paths(root, tmp_path, monkeypatch):
    data = tmp_path / "données réelles"
    for folder in ("composite_images", "masks", "real_images"):
        (data / "Sous ensemble" / folder).mkdir(parents=True)
    place = data / "Sous ensemble"
    stem = unicodedata.normalize("NFC", "été à_1_1")
    Image.fromarray(noise(1)).save(place / "real_images" / f"{stem[:-4]}.jpg")
    Image.fromarray(noise(2)).save(place / "composite_images" / f"{stem}.jpg")
    Image.new("L", (WIDTH, HEIGHT), 255).save(place / "masks" / f"{stem[:-2]}.png")
    predictions = tmp_path / "prédictions 漢字"
    predictions.mkdir()
    # as some systems write it: the accents apart from their letters
    Image.fromarray(noise(3)).save(predictions / (unicodedata.normalize("NFD", stem) + ".png"))
    (tmp_path / "ma liste.txt").write_text(f"Sous ensemble/composite_images/{stem}.jpg\n", encoding="utf-8")
    (data / "ma liste.jsonl").write_text(json.dumps({"file_name": str(place / "composite_images" / f"{stem}.jpg")}) + "\n")
    monkeypatch.chdir(tmp_path)
    relative = evaluate("données réelles", "ma liste.txt", "prédictions 漢字", out="rapport été", cases=1, progress=False)
    absolute = evaluate(data, "ma liste.jsonl", predictions.resolve(), progress=False)
    assert relative["overall"] == absolute["overall"] and relative["overall"]["count"] == 1
    assert relative["predictions"][0]["extra"] == []
    assert stem in (tmp_path / "rapport été" / "images.csv").read_text(encoding="utf-8")


def test_figures_without_a_peak_are_named(root, tmp_path):
    for subset, stem, _ in COMPOSITES:
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / f"{stem}.png")
    result = evaluate(root, predictions=tmp_path, convention="harmonizer", progress=False)
    assert result["predictions"][0]["without_psnr"] == [stem for _, stem, _ in COMPOSITES]
    assert result["overall"]["PSNR"] is None and result["overall"]["count"] == 4 and result["overall"]["MSE"] > 0
    json.dumps(result, allow_nan=False)


def write_pair(root, mask, number=0):
    """One composite, mask and real image, WIDTH x HEIGHT; the list has all that were written."""
    for folder in ("composite_images", "masks", "real_images"):
        (root / "S" / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(0)).save(root / f"S/real_images/a{number}.png")
    Image.fromarray(noise(1)).save(root / f"S/composite_images/a{number}_1_1.png")
    mask.save(root / f"S/masks/a{number}_1.png")
    names = sorted(path.name for path in (root / "S/composite_images").iterdir())
    (root / "list.txt").write_text("".join(f"S/composite_images/{name}\n" for name in names))


def test_a_composite_that_is_named_again_counts_once(tmp_path, capsys):
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, (0, 0, 50, 50))
    for number in range(3):
        write_pair(tmp_path, mask, number)
        Image.fromarray(noise(10 + number)).save(tmp_path / f"S/composite_images/a{number}_1_1.png")
    once = evaluate(tmp_path, "list.txt", tmp_path / "S/composite_images", progress=False)
    names = (tmp_path / "list.txt").read_text()
    first, _, last = names.splitlines()
    (tmp_path / "list.txt").write_text(f"{names}{first}\n./{first}\n{last}\n")
    command = ["evaluate", "--data", tmp_path, "--list", "list.txt", "--predictions", tmp_path / "S/composite_images", "--json"]
    assert main(list(map(str, command))) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out.splitlines()[-1])
    assert found["overall"] == once["overall"] and found["overall"]["count"] == 3
    assert found["named_again"] == ["a0_1_1", "a2_1_1"] and once["named_again"] == []
    assert "2 composites named more than once, counted once." in shown.err


def test_means_of_different_images_are_said_to_be(root, capsys):
    command = ["evaluate", "--data", str(root), "--predictions", str(root / "good")]
    for folders, same in (([], True), ([str(root / "HCOCO/composite_images"), str(root / "HFlickr/composite_images")], False)):
        assert main([*command, *folders]) == 0
        assert ("Not all were measured on the same images" in capsys.readouterr().out) != same
        assert evaluate(root, predictions=[root / "good", *folders], resamples=0, progress=False)["same_images"] == same
