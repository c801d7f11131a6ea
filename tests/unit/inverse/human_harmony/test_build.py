"""The command: from a table of real shape, made up, to lists to train on; killed, gone on with, and shared among processes."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.classifier.checkpoint import save_harmony_classifier
from diffharmony.classifier.model import HarmonyClassifier
from diffharmony.dataset.pairs import read_list
from diffharmony.inverse.human_harmony.split import split_photographs
from diffharmony.inverse.manifest import read_manifest
from diffharmony.tests.made.human_harmony import box, name_of, row, write_mask, write_photograph, write_table
from diffharmony.tests.made.inverse import contents, write_inverse_pair

HEIGHT, WIDTH, K, COUNT = 40, 32, 2, 10
NAMES = [name_of(index) for index in range(1, COUNT + 1)]
LISTS = ("IHD_train.txt", "IHD_test.txt")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_harmony_classifier(HarmonyClassifier("small", input_size=32, widths=(8, 16)), folder / "classifier.safetensors")
    return {**write_inverse_pair(folder), "classifier": folder / "classifier.safetensors"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten photographs of two parts each, one of them in rows apart; one too small a part, one absent, one damaged row, equal pictures."""
    folder = tmp_path_factory.mktemp("fashion data")
    (folder / "train").mkdir()
    rows = []
    for index, name in enumerate(NAMES):
        write_photograph(folder / "train" / f"{name}.jpg", HEIGHT, WIDTH, index)
        rows += [row(name, box(HEIGHT, WIDTH, 4, 20, 6, 20 + index), 1), row(name, box(HEIGHT, WIDTH, 16, 34, 8, 18), 23, "")]
    shutil.copy(folder / "train" / f"{NAMES[3]}.jpg", folder / "train" / f"{NAMES[4]}.jpg")
    write_photograph(folder / "train" / "shoe.jpg", HEIGHT, WIDTH)
    rows += [row("shoe", box(HEIGHT, WIDTH, 0, 2, 0, 2), 23), row("absent", box(HEIGHT, WIDTH, 4, 20, 6, 20), 1)]
    rows.append(rows.pop(1))  # of the first photograph
    rows.insert(4, {**rows[2], "EncodedPixels": "1 1 1"})  # line 6
    write_table(folder / "train.csv", rows)
    return folder


def command(models, out, *more, **options):
    options = {"out": out, "candidates": K, "steps": 2, "device": "cpu", "vae": models["vae"], "unet": models["unet"],
               "classifier": models["classifier"], **options}  # fmt: skip
    words = [str(word) for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    return ["human-harmony", *words, *map(str, more), "--json"]


def table(data):
    return {"csv": data / "train.csv", "photos": data / "train", "min_share": 0.05, "test_share": 0.3}


@pytest.fixture(scope="module")
def whole(models, data, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(command(models, out, **table(data))) == 0
    return out


def listed(out, file):
    return (out / file).read_text(encoding="utf-8").splitlines()


def printed(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_data_set(data, whole):
    pairs = {file: read_list(whole, file) for file in LISTS}
    assert {pair.real.stem for file in LISTS for pair in pairs[file]} == set(NAMES)
    assert [len(pairs[file]) for file in LISTS] == [7, 3]
    manifest = {entry["file_name"]: entry for entry in read_manifest(whole / "candidates.jsonl")}
    scores = {entry["file_name"]: entry["score"] for entry in map(json.loads, listed(whole, "scores.jsonl"))}
    assert len(manifest) == len(scores) == COUNT * K
    for index, name in enumerate(NAMES):
        mask = np.asarray(Image.open(whole / "HumanHarmony" / "masks" / f"{name}_1.png"))
        expected = box(HEIGHT, WIDTH, 4, 20, 6, 20 + index) | box(HEIGHT, WIDTH, 16, 34, 8, 18)
        assert mask.dtype == np.uint8 and np.array_equal(mask, expected * np.uint8(255))
        assert (whole / "HumanHarmony" / "real_images" / f"{name}.jpg").samefile(data / "train" / f"{name}.jpg")
    for pair in (pair for file in LISTS for pair in pairs[file]):
        entries = [entry for entry in manifest.values() if entry["real"].endswith(pair.real.name)]
        best = max(entries, key=lambda entry: scores[entry["file_name"]])
        assert pair.composite.name == best["file_name"].rsplit("/", 1)[1] and pair.subset == "HumanHarmony"
        composite, real = (np.asarray(Image.open(path).convert("RGB")) for path in (pair.composite, pair.real))
        outside = np.asarray(Image.open(pair.mask)) == 0
        assert np.array_equal(composite[outside], real[outside]) and not np.array_equal(composite, real)


def test_the_split_is_of_names_and_seed_and_equal_pictures_stay_together(whole):
    train, test = ({line.rsplit("/", 1)[1].rsplit("_", 2)[0] for line in listed(whole, file)} for file in LISTS)
    same = {name: min(NAMES[3:5]) for name in NAMES[3:5]}
    assert (sorted(train), sorted(test)) == split_photographs(NAMES, test_share=0.3, same=same)
    assert set(NAMES[3:5]) <= train or set(NAMES[3:5]) <= test


def test_the_report_counts_all_that_was_dropped(whole):
    report = json.loads((whole / "human_harmony.json").read_text())
    assert (report["rows"], report["damaged_rows"], report["photographs"], report["kept"]) == (23, 1, 12, 10)
    assert report["dropped"] == {"share_too_small": 1, "photograph_absent": 1}
    assert report["damage"] == {"runs": 1, "photograph_absent": 1} and report["equal_photographs"] == 2
    assert report["candidates"] == {"made": 20, "found": 0, "bad_images": {}} and report["selection"]["chosen"] == 10
    assert report["composites_listed"] == report["photographs_listed"] == dict(zip(LISTS, (7, 3)))
    shares = [np.asarray(Image.open(path)).mean() / 255 for path in (whole / "HumanHarmony" / "masks").iterdir()]
    assert report["foreground_share"]["above"] == {"Human Harmony": pytest.approx(np.mean(np.array(shares) > 0.2))}
    problems = [json.loads(line) for line in listed(whole, "damage.jsonl")]
    assert [(one["line"], one["kind"], one["name"]) for one in problems] == [(6, "runs", NAMES[1]), (23, "photograph_absent", "absent")]
    assert Image.open(whole / "figure2.png").size[0] > 500


def test_trained_on_as_it_is(whole):
    from diffharmony.train.config import DataConfig
    from diffharmony.train.data.dataset import HarmonizationDataset

    sample = HarmonizationDataset(DataConfig(roots=(whole,), size=32, workers=0), seed=0)[0]
    assert sample["composite"].shape == (3, 32, 32) and 0 < sample["mask"].mean() < 1


def test_kills_at_any_moment_change_nothing(runs, models, data, whole, tmp_path):
    out, rng, before, kills = tmp_path / "out", random.Random(3), {}, 0
    for processes in (1, 1, 2, 1, 2, 1, 1, 1, 1, 1):
        started = runs.start_processes(processes, *command(models, out, **table(data)))
        seen = names(out)
        deadline = time.monotonic() + 90
        while names(out) <= seen and any(run.alive() for run in started):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.choice((0, 0, 0.05, 0.3)))
        alive = any(run.alive() for run in started)
        for run in started:
            run.kill()
        now = files(out)
        # written once, and whole
        assert before.items() <= now.items()
        for path in now:
            Image.open(out / path).load()
        before = now
        kills += alive
        if not alive:
            break
    assert kills >= 3
    unfinished = out / "HumanHarmony" / "masks" / f".{NAMES[0]}_1-abcd_123.png"
    unfinished.write_bytes(b"half")
    assert main(command(models, out, **table(data))) == 0
    assert before.items() <= files(out).items()
    expected = contents(whole)
    found = contents(out)
    for name in ("human_harmony.json", "selection.json"):
        # what was made now, and what was there
        expected.pop(name), found.pop(name)
    assert found == expected


def names(out):
    """Of everything whole, lists and reports too; not by rglob, which stops where a running build removes a folder."""
    return {Path(folder, name) for folder, _, found in os.walk(out) for name in found if not name.startswith(".")}


def files(out):
    """Which file each image in the layout is, and when it was written."""
    found = {}
    for kind in ("real_images", "masks", "cand_composite_images"):
        for path in (out / "HumanHarmony" / kind).glob("[!.]*"):
            found[path.relative_to(out).as_posix()] = path.stat().st_ino, path.stat().st_mtime_ns
    return found


def test_two_processes_build_what_one_builds(runs, models, data, whole, tmp_path):
    two = runs.start_processes(2, *command(models, tmp_path / "out", **table(data)))
    assert [run.wait() for run in two] == [0, 0], two[1].output()
    found, expected = contents(tmp_path / "out"), contents(whole)
    for name in ("human_harmony.json", "selection.json"):
        reports = [json.loads(one.pop(name)) for one in (found, expected)]
        if name == "human_harmony.json":
            for report in reports:
                report["foreground_share"].pop("picture")
        assert reports[0] == reports[1]
    assert found == expected
    assert two[0].result()["command"] == "human-harmony" and "{" not in two[1].output()


def test_a_folder_of_photographs_with_several_masks(models, data, tmp_path, capsys):
    photos, masks, out = tmp_path / "photos", tmp_path / "masks", tmp_path / "out"
    photos.mkdir()
    masks.mkdir()
    for index, name in enumerate(("a", "b_1", "größe 3", "d")):
        write_photograph(photos / f"{name}.png", HEIGHT, WIDTH, index)
        for mask in (1, 2):
            write_mask(masks / f"{name}_{mask}.png", box(HEIGHT, WIDTH, 5, 20 + mask, 4, 25))
    iharmony4 = tmp_path / "ihd"
    assert main(command(models, iharmony4, **table(data), limit=3)) == 0
    assert main(command(models, out, photos=photos, masks=masks, subset="Own", test_share=0.5, iharmony4=iharmony4)) == 0
    result = printed(capsys)
    train, test = ([line for line in listed(out, file)] for file in LISTS)
    assert len(train) == len(test) == 4 and all(line.startswith("Own/composite_images/") for line in train + test)
    sides = [{pair.real.stem for pair in read_list(out, file)} for file in LISTS]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == {"a", "b_1", "größe 3", "d"}
    assert set(result["foreground_share"]["above"]) == {"Human Harmony", "iHarmony4"} and result["candidates"]["made"] == 16
    # gone on with: nothing is made again
    assert main(command(models, out, photos=photos, masks=masks, subset="Own", test_share=0.5)) == 0
    assert printed(capsys)["candidates"] == {"made": 0, "found": 16, "bad_images": {}}
    write_mask(masks / "a_1.png", box(HEIGHT, WIDTH, 0, 3, 0, 3))
    assert main(command(models, out, photos=photos, masks=masks, subset="Own")) == 1
    assert "must be of the mask that the folder was begun with" in capsys.readouterr().err


def test_a_limit_is_raised_later_and_lists_follow(models, data, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(models, out, **table(data), limit=4)) == 0
    assert printed(capsys)["candidates"]["made"] == 4 * K and len(listed(out, LISTS[0])) == 3
    assert main(command(models, out, **table(data))) == 0
    assert printed(capsys)["candidates"] == {"made": 6 * K, "found": 4 * K, "bad_images": {}}
    assert [listed(out, file) for file in LISTS] == [listed(whole, file) for file in LISTS]
    assert main(command(models, out, **table(data), limit=4)) == 0
    assert len(listed(out, LISTS[0])) + len(listed(out, LISTS[1])) == 4


def test_dry_run_writes_nothing_but_a_report_that_is_asked_for(models, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(models, out, "--dry-run", **table(data), report=tmp_path / "damage.jsonl")) == 0
    shown = capsys.readouterr()
    plan = json.loads(shown.out.splitlines()[-1])
    assert (plan["kept"], plan["to_make"], plan["train"], plan["test"], plan["damaged_rows"]) == (10, 20, 7, 3, 1)
    assert "line 6: EncodedPixels must be pairs" in shown.err and "would make 20 candidates" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["damage.jsonl"] and len(listed(tmp_path, "damage.jsonl")) == 2


def test_a_photograph_cut_off_is_left_out_and_named(models, tmp_path, capsys):
    rows = []
    for index, name in enumerate(("whole", "cut", "other")):
        path = write_photograph(tmp_path / f"{name}.png", HEIGHT, WIDTH, index)
        rows.append(row(name, box(HEIGHT, WIDTH, 4, 20, 6, 20)))
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    source = {"csv": write_table(tmp_path / "train.csv", rows), "photos": path.parent, "test_share": 0.5}
    assert main(command(models, tmp_path / "out", **source)) == 0
    result = printed(capsys)
    assert list(map(len, (listed(tmp_path / "out", file) for file in LISTS))) == [1, 1]
    assert len(result["candidates"]["bad_images"]) == 1 and "cut.png" in next(iter(result["candidates"]["bad_images"]))
    assert main(command(models, tmp_path / "out", **source, on_bad_image="stop")) == 1


@pytest.mark.parametrize(("change", "message"), [
    ({"candidates": 3}, "candidates must be 2 to go on in"),
    ({"min_share": 0.1}, "filters must be"),
    ({"subset": "Other"}, "subset must be 'HumanHarmony' to go on in"),
    ({"seed": 1}, "seed must be 0 to go on in"),
])  # fmt: skip
def test_a_folder_is_gone_on_with_as_it_was_begun(models, data, whole, capsys, change, message):
    before = files(whole)
    assert main(command(models, whole, **{**table(data), **change})) == 1
    assert message in capsys.readouterr().err and files(whole) == before


def test_what_cannot_be_built_is_refused_before_anything_is_written(models, data, tmp_path, capsys):
    out = tmp_path / "out"
    source = table(data)
    other = {**models, "vae": models["harmonize_vae"]}
    cases = [
        (command(other, out, **source), "direction 'invert', got 'harmonize'"),
        (command(other, out, "--dry-run", **source), "direction 'invert', got 'harmonize'"),
        (command({**models, "classifier": models["unet"]}, out, "--dry-run", **source), "must be of kind 'classifier', got 'unet'"),
        (command(models, out, photos=data / "train"), "must be one of --csv and --masks, got none"),
        (command(models, out, **source, masks=data), "must be one of --csv and --masks, got both"),
        (command(models, out, **{**source, "test_share": 2}), "test-share must lie in 0..1"),
        (command(models, out, **source, candidates=0), "candidates must be at least 1"),
        (command(models, out, **source, workers=0), "workers must be at least 1"),
        (command(models, out, **source, max_score=2), "max_score must lie in"),
        (command(models, out, **source, subset="../x"), "subset must be a plain file name"),
        (command(models, out, **source, iharmony4=tmp_path), "must exist, looked in"),
        (command(models, out, **source, report=tmp_path / "no" / "damage.jsonl"), "folder of 'damage.jsonl' must exist"),
    ]  # fmt: skip
    for words, message in cases:
        assert main(words) == 1
        assert message in capsys.readouterr().err.splitlines()[-1], message
        assert not out.exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "IHD_train.txt").write_text("HCOCO/composite_images/a_1_1.jpg\n")
    assert main(command(models, foreign, **source)) == 1
    assert "must be a new folder, or one that human-harmony began" in capsys.readouterr().err
    assert contents(foreign) == {"IHD_train.txt": b"HCOCO/composite_images/a_1_1.jpg\n"}


def test_filters_or_limits_that_leave_nothing_say_so(models, data, tmp_path, capsys):
    assert main(command(models, tmp_path / "none", **{**table(data), "min_share": 0.9})) == 1
    assert "got none of 12 (" in capsys.readouterr().err
    assert main(command(models, tmp_path / "none", "--dry-run", **{**table(data), "min_share": 0.9})) == 1
    shown = capsys.readouterr().err
    assert "would make 0 candidates" in shown and "at least one photograph with a mask must be left, got none of 12 (" in shown.splitlines()[-1]
    assert main(command(models, tmp_path / "far", **table(data), limit=2, min_distance=1e9)) == 1
    assert "selection must leave at least one composite, got none (4 changed less than min_distance)" in capsys.readouterr().err
