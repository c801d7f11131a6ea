"""The report's files and its page, in a real browser where there is one."""

import csv
import json
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from diffharmony.evaluation import evaluate
from diffharmony.tests.browser.frontend import chromium, needs_chromium

SIDE = 72
NAMES = ["a é_1_1", "a é_1_2", "b <b>&_1_1", "c_1_1", "d_1_1", "e_1_1"]
EVIL = 'x <i> & "y" <script>'


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six composites in a subset with an unpleasant name; predictions `good`, and EVIL which lacks one and has a damaged one."""
    root = tmp_path_factory.mktemp("sét")
    for folder in ("composite_images", "masks", "real_images"):
        (root / EVIL / folder).mkdir(parents=True)
    for folder in ("good", f"{EVIL} out"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        image, mask, _ = name.rsplit("_", 2)
        pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((SIDE * 3 // 2, SIDE)), float)
        region = np.zeros((SIDE, SIDE * 3 // 2), np.uint8)
        region[: 3 + 10 * number, 5:60] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(root / EVIL / "real_images" / f"{image}.jpg", quality=95)
        Image.fromarray(region).save(root / EVIL / "masks" / f"{image}_{mask}.png")
        Image.fromarray((pixels * 0.5).astype(np.uint8)).save(root / EVIL / "composite_images" / f"{name}.jpg")
        Image.fromarray((pixels * (0.98 - 0.05 * number)).astype(np.uint8)).save(root / "good" / f"{name}.png")
        if number:
            Image.fromarray((pixels * (0.6 + 0.05 * number)).astype(np.uint8)).save(root / f"{EVIL} out" / f"{name}.png")
    damaged = root / f"{EVIL} out" / f"{NAMES[1]}.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    (root / "IHD_test.txt").write_text("".join(f"{EVIL}/composite_images/{name}.jpg\n" for name in NAMES), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def report(root):
    out = root / "re port é"
    folders = [root / "good", root / f"{EVIL} out"]
    result = evaluate(root, predictions=folders, baselines=["composite"], out=out, cases=2, size=64, progress=False)
    return out, result


def test_files_hold_the_result(report):
    out, result = report
    assert sorted(path.name for path in out.iterdir()) == ["images.csv", "index.html", "results.json", "tables.md"]
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    images = document.pop("images")
    assert document == result and [row["name"] for row in images] == NAMES
    assert images[0]["methods"][f"{EVIL} out"] == {"problem": "missing"}
    with (out / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(NAMES)
    for label in ("good", "composite"):
        (table,) = (one for one in result["predictions"] if one["label"] == label)
        assert np.mean([float(row["fMSE"]) for row in rows if row["method"] == label]) == pytest.approx(table["overall"]["fMSE"])
    assert [row["problem"] for row in rows if row["method"] == f"{EVIL} out"] == ["missing", "unreadable", "", "", "", ""]


def test_markdown_has_every_group_and_problem(report):
    out, result = report
    text = (out / "tables.md").read_text(encoding="utf-8")
    assert "## overall" in text and "## 15-100 %" in text and "## Paired differences" in text
    assert f"| good | 6 | {result['overall']['PSNR']:.2f} [" in text
    assert "1 missing, left out of every figure: `a é_1_1`" in text and "1 unreadable" in text
    assert "<script>" not in text  # escaped, so that it is shown and not run
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {7, 8}


def test_means_of_different_images_are_not_ranked(root, report, tmp_path):
    """EVIL's predictions lack two images; two folders that each lack one have equal counts, but of different images."""
    out, _ = report
    best, note = '<td class="better">', "Not all were measured on the same images"
    assert best not in (out / "index.html").read_text(encoding="utf-8")
    assert all(note in (out / name).read_text(encoding="utf-8") for name in ("index.html", "tables.md"))
    for folder, lacking in (("first", NAMES[0]), ("second", NAMES[-1])):
        shutil.copytree(root / "good", tmp_path / folder)
        (tmp_path / folder / f"{lacking}.png").unlink()
    for folders, baselines in (([tmp_path / "first", tmp_path / "second"], []), ([root / "good"], ["composite"])):
        evaluate(root, predictions=folders, baselines=baselines, out=tmp_path / "out", cases=1, resamples=0, progress=False)
        text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        assert ((best in text), (note in text)) == ((True, False) if baselines else (False, True))


def test_page_refers_to_nothing_outside_and_escapes_names(report):
    out, _ = report
    text = (out / "index.html").read_text(encoding="utf-8")
    for mark in ("http://", "https://", "src=", "href="):
        assert mark not in text
    assert text.count("<script") == 2 and "<i>" not in text
    assert "data:image/jpeg;base64," in text


@needs_chromium
def test_page_sorts_and_shows_the_worst_and_best(report):
    from playwright.sync_api import sync_playwright

    out, result = report
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["images"]
    fmse = {row["name"]: row["methods"]["good"]["fMSE"] for row in rows}
    psnr = {row["name"]: row["methods"]["composite"]["PSNR"] for row in rows}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.set_default_timeout(10_000)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((out / "index.html").as_uri())

        def names():
            return page.locator("#images tbody td.name").all_inner_texts()

        def cases():
            return [text.split(" · ")[1] for text in page.locator(".case h3").all_inner_texts()]

        assert names() == sorted(fmse, key=fmse.get, reverse=True)
        assert cases() == sorted(fmse, key=fmse.get, reverse=True)[:2]
        broken = "images => images.filter(image => !image.complete || !image.naturalWidth).length"
        assert page.locator(".case img").count() >= 8 and page.locator(".case img").evaluate_all(broken) == 0
        page.get_by_title("Sort by PSNR of composite", exact=True).click()
        assert names() == sorted(psnr, key=psnr.get) and cases() == sorted(psnr, key=psnr.get)[:2]
        page.get_by_title("Sort by PSNR of composite", exact=True).click()
        assert names() == sorted(psnr, key=psnr.get, reverse=True)
        page.select_option("#method", f"{EVIL} out")
        page.select_option("#figure", "MSE")
        page.select_option("#order", "best")
        assert set(names()[-2:]) == set(NAMES[:2])  # no figure: last, whichever the order
        page.select_option("#method", "composite − good")
        assert len(cases()) == 2
        page.fill("#find", "É")
        assert sorted(names()) == NAMES[:2]
        assert page.locator("td.problem").all_inner_texts().count("missing") == 1
        page.select_option("#range", "5-15")
        assert page.locator("#count").inner_text().endswith("of 6 images")
        assert page.locator("li").all_inner_texts() == ["a é_1_1", "a é_1_2.png"]
        assert errors == []
        browser.close()


def test_an_earlier_report_is_replaced_and_nothing_else(root, report, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        evaluate(root, predictions=root / "good", out=out, cases=1, resamples=0, progress=False)
    assert len(list(out.iterdir())) == 4 and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "Paired" not in (out / "tables.md").read_text()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="out must be a new folder, an empty one or an earlier report's, got .*notes.txt"):
        evaluate(root, predictions=root / "good", out=out)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out must be a new folder"):
        evaluate(root, predictions=root / "good", out=tmp_path / "file")
    with pytest.raises(ValueError, match="folder of out must be a folder, got the file"):
        evaluate(root, predictions=root / "good", out=tmp_path / "file" / "out")
    evaluate(root, predictions=root / "good", out=tmp_path / "new" / "folder" / "out", cases=1, resamples=0, progress=False)
    assert len(list((tmp_path / "new" / "folder" / "out").iterdir())) == 4


def test_a_failure_leaves_the_earlier_report(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate(root, predictions=root / "good", out=out, cases=1, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("diffharmony.evaluation.page.PAGE", "{{ undefined.thing }}")
    with pytest.raises(Exception, match="undefined"):
        evaluate(root, predictions=root / "good", out=out, cases=1, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_run_leaves_no_report_or_a_whole_one(root, tmp_path):
    """A process that writes its report again and again is killed in the midst of it."""
    out = tmp_path / "out"
    script = (
        "from diffharmony.evaluation import evaluate\n"
        f"while True:\n  evaluate({str(root)!r}, predictions={str(root / 'good')!r}, out={str(out)!r}, cases=1, progress=False)\n"
        "  print('done', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "done\n"
        time.sleep(random.uniform(0, 0.5))
        run.kill()
    if out.exists():
        assert len(list(out.iterdir())) == 4 and (out / "index.html").read_text(encoding="utf-8").endswith("</html>")
        assert len(json.loads((out / "results.json").read_text())["images"]) == len(NAMES)
    evaluate(root, predictions=root / "good", out=out, cases=1, progress=False)


def test_many_problems_are_counted_in_print_and_named_in_full_elsewhere(root, tmp_path, capsys):
    from diffharmony.evaluation.tables import evaluation_text

    (tmp_path / "few").mkdir()
    Image.open(root / "good" / "c_1_1.png").save(tmp_path / "few" / "c_1_1.png")
    result = evaluate(root, predictions=tmp_path / "few", progress=False)
    assert len(result["predictions"][0]["missing"]) == 5
    assert "5 missing, left out of every figure: a é_1_1, a é_1_2 and 3 more (--json names all)" in evaluation_text(result, 2)


def test_the_benchmark_measures_the_same_figures_as_its_reference(monkeypatch):
    from diffharmony.applications.benchmarks import evaluate as benchmark

    # its own photographs of 12 megapixels take a second each to make
    monkeypatch.setattr(benchmark, "IHARMONY4", {"HAdobe5k": (2160, 432, 300, 200), "HCOCO": (4283, 3417, 320, 200)})
    results = benchmark.run(benchmark.EvaluateBenchmark(conventions=("diffharmony", "is2am"), scale=5000, count=1, repeats=1))
    assert [(row["data"], row["convention"]) for row in results][:2] == [("iHarmony4", "diffharmony"), ("iHarmony4", "is2am")]
    assert [row["images"] for row in results] == [2, 2, 1, 1, 4, 4] and all(row["ratio"] > 0 for row in results)
    assert "side by side" in benchmark.table(results)
    with pytest.raises(ValueError, match="conventions must be of diffharmony, hdnet, is2am, got 'pctnet'"):
        benchmark.run(benchmark.EvaluateBenchmark(conventions=("pctnet",)))
