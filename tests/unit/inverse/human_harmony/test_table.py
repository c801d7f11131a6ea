"""What is read from the CSV: columns by name, whatever the file's make; problems by line; rows in any order."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffharmony.inverse.human_harmony.filters import Filters
from diffharmony.inverse.human_harmony.photographs import PhotographFolder
from diffharmony.inverse.human_harmony.problems import Problems
from diffharmony.inverse.human_harmony.subjects import Counts, csv_subjects
from diffharmony.tests.made.human_harmony import HEADER, PHOTOGRAPHS, ROWS, box, row, write_large, write_photograph, write_table

HEIGHT, WIDTH = 12, 9
PARTS = {"a1": [box(12, 9, 1, 6, 2, 5), box(12, 9, 4, 9, 3, 7)], "b_2": [box(12, 9, 0, 3, 0, 9)], "c3": [box(12, 9, 11, 12, 8, 9)]}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    for seed, name in enumerate(("a1.jpg", "b_2.JPEG", "c3.png")):
        write_photograph(folder / name, HEIGHT, WIDTH, seed)
    return folder


def rows_of(parts=PARTS):
    return [row(name, mask, index) for name, masks in parts.items() for index, mask in enumerate(masks)]


def counts(path, folder, filters=Filters(), **how):
    """Name -> mask as [H,W] bool, what is damaged as (line, kind), and the counts."""
    problems, found = Problems(path, **how), Counts()
    subjects = list(csv_subjects(path, PhotographFolder(folder), filters, problems, found))
    assert len({subject.name for subject in subjects}) == len(subjects)
    masks = {subject.name: subject.mask.pixels() == 255 for subject in subjects}
    return masks, [(entry["line"], entry["kind"]) for entry in problems.all()], found


def union(name):
    return np.logical_or.reduce(PARTS[name])


def assert_all_found(masks):
    assert list(masks) == list(PARTS)
    assert all(np.array_equal(mask, union(name)) for name, mask in masks.items())


@pytest.mark.parametrize("how", [
    {},
    {"bom": True},
    {"line_end": "\r\n"},
    {"header": ("note", "Width", "ClassId", "Height", "AttributesIds", "EncodedPixels", "more", "ImageId")},
    {"header": ("ImageId", "EncodedPixels", "Width", "Height")},
    {"header": ("ClassId", " Height", "Width ", "EncodedPixels", "ImageId"), "bom": True, "line_end": "\r\n"},
])  # fmt: skip
def test_columns_by_name_in_any_file_of_any_make(photographs, tmp_path, how):
    named = {name.strip(): name for name in how.get("header", HEADER)}
    rows = [{named[key]: value for key, value in one.items() if key in named} for one in rows_of()]
    path = write_table(tmp_path / "train.csv", rows, **{"header": HEADER, **how})
    masks, problems, found = counts(path, photographs)
    assert_all_found(masks)
    assert (problems, found.rows, found.photographs) == ([], 4, 3)


def test_quoted_fields_with_commas_and_quotes(photographs, tmp_path):
    rows = [{**one, "note": 'he said "11, 12"'} for one in rows_of()]
    path = write_table(tmp_path / "train.csv", rows, (*HEADER, "note"))
    text = path.read_text().replace(rows[3]["EncodedPixels"], f'"{rows[3]["EncodedPixels"]}"').replace("c3", '"c3"')
    path.write_text(text + "\n\n", newline="")
    masks, problems, found = counts(path, photographs)
    assert_all_found(masks)
    assert problems == [] and found.rows == 4


def test_image_ids_with_a_suffix_are_the_same_photographs(photographs, tmp_path):
    rows = rows_of()
    rows[1]["ImageId"] = "a1.jpg"
    masks, problems, _ = counts(write_table(tmp_path / "train.csv", rows), photographs)
    assert_all_found(masks)
    assert problems == []


@pytest.mark.parametrize("order", [(1, 2, 3, 0), (2, 0, 3, 1), (3, 1, 2, 0)])
def test_rows_of_a_photograph_need_not_be_adjacent(photographs, tmp_path, order):
    rows = rows_of()
    path = write_table(tmp_path / "train.csv", [rows[index] for index in order])
    masks, problems, found = counts(path, photographs)
    assert sorted(masks) == sorted(PARTS) and all(np.array_equal(mask, union(name)) for name, mask in masks.items())
    assert list(masks) == list(dict.fromkeys(rows[index]["ImageId"] for index in order))  # by first lines
    assert problems == [] and found.photographs == 3


DAMAGED = [  # line, kind, what is wrong with the row
    (3, "runs", {"EncodedPixels": "1 2 3"}),
    (4, "runs", {"EncodedPixels": "100 20"}),
    (5, "runs", {"EncodedPixels": "1 2.5"}),
    (6, "runs", {"EncodedPixels": ""}),
    (7, "sides", {"Height": "12.5"}),
    (8, "sides", {"Width": 0}),
    (9, "sides", {"Height": 9, "Width": 12}),
    (10, "class_id", {"ClassId": "6_1"}),
    (11, "image_id", {"ImageId": ""}),
    (12, "image_id", {"ImageId": "../a1"}),
]


def test_damaged_rows_are_named_by_line_and_the_photograph_is_built_from_the_others(photographs, tmp_path):
    rows = rows_of()
    bad = [{**row("a1", np.ones((12, 9), bool)), **change} for _, _, change in DAMAGED]
    path = write_table(tmp_path / "train.csv", [rows[0], *bad, *rows[1:]])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[12:12] = [
        b"a1,1 1,12\n",  # 13: too few columns
        b'a1,1 1,12,9,1,"1,2",7\n',  # 14: too many
        b'a1,"1 1,12,9,1,2\n',  # 15: a quote that nothing closes
        b"a1,1 1,12,9,1,caf\xe9\n",  # 16: not UTF-8
        b"a1,1 1,1\x002,9,1,\n",  # 17: neither CSV nor a number
    ]
    path.write_bytes(b"".join(lines))
    masks, problems, found = counts(path, photographs, Filters(drop_classes=frozenset({45})))
    assert_all_found(masks)
    expected = [(line, kind) for line, kind, _ in DAMAGED] + [(13, "columns"), (14, "columns"), (15, "columns"), (16, "encoding")]
    assert problems[:-1] == expected and problems[-1][0] == 17
    assert found.rows == 4 + 15


@pytest.mark.parametrize("class_id", ["", "6.0", "6_1", "shoe"])
def test_a_class_that_no_rule_asks_for_does_not_matter(photographs, tmp_path, class_id):
    path = write_table(tmp_path / "train.csv", [{**one, "ClassId": class_id} for one in rows_of()])
    masks, problems, _ = counts(path, photographs)
    assert_all_found(masks)
    assert problems == []


def test_numbers_with_nothing_after_the_point_are_whole(photographs, tmp_path):
    """As tables write them that had gaps once."""
    rows = [{**one, "Height": f"{one['Height']}.0", "Width": f"{one['Width']}.", "ClassId": "6.00"} for one in rows_of()]
    rows[:0] = [{**row("a1", np.ones((9, 12), bool)), "Height": 64, "Width": 64}]  # still the one that is not the photograph's
    masks, problems, _ = counts(write_table(tmp_path / "train.csv", rows), photographs, Filters(require_classes=frozenset({6})))
    assert_all_found(masks)
    assert problems == [(2, "sides")]


def test_a_first_row_of_another_size_than_the_photograph_is_the_damaged_one(photographs, tmp_path):
    rows = [{**row("a1", np.ones((9, 12), bool)), "Height": 64, "Width": 64}, *rows_of()]
    masks, problems, _ = counts(write_table(tmp_path / "train.csv", rows), photographs)
    assert_all_found(masks)
    assert problems == [(2, "sides")]


def test_a_photograph_without_a_valid_part_is_dropped(photographs, tmp_path):
    rows = rows_of()
    rows[2]["EncodedPixels"] = "0 1"
    masks, problems, found = counts(write_table(tmp_path / "train.csv", rows), photographs)
    assert list(masks) == ["a1", "c3"] and problems == [(4, "runs")] and found.dropped == {"no_valid_part": 1}


def test_photographs_that_are_absent_damaged_or_of_another_size(tmp_path):
    for name in ("a1", "b_2"):
        write_photograph(tmp_path / f"{name}.jpg", HEIGHT, WIDTH)
    upright = Image.open(write_photograph(tmp_path / "turned.png", HEIGHT, WIDTH))
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.save(tmp_path / "d4.jpg", exif=exif)
    write_photograph(tmp_path / "e5.png", 6, 5)
    (tmp_path / "b_2.jpg").write_bytes(b"no picture")
    rows = [*rows_of(), row("d4", np.ones((9, 12), bool)), row("e5", np.ones((12, 9), bool))]
    path = write_table(tmp_path / "train.csv", rows)
    masks, problems, found = counts(path, tmp_path)
    assert list(masks) == ["a1"]
    kinds = ["photograph_unreadable", "photograph_absent", "photograph_size", "photograph_size"]
    assert problems == list(zip((4, 5, 6, 7), kinds)) and found.dropped == {kinds[0]: 1, kinds[1]: 1, kinds[2]: 2}
    report = Problems(path)
    list(csv_subjects(path, PhotographFolder(tmp_path), Filters(), report, Counts()))
    report.write(tmp_path / "damage.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "damage.jsonl").read_text().splitlines()]
    assert entries[2]["name"] == "d4" and "12 x 9 px, got 9 x 12 (its EXIF orientation turns it" in entries[2]["message"]
    assert report.rows == 0 and "got 5 x 6." in entries[3]["message"]


def test_stopping_names_file_and_line(photographs, tmp_path):
    rows = rows_of()
    rows[2]["EncodedPixels"] = "1 2 3"
    path = write_table(tmp_path / "train.csv", rows)
    with pytest.raises(ValueError, match=r"line 4 of .*train\.csv: EncodedPixels must be pairs, .* got 3\. .*--on-bad-row skip"):
        counts(path, photographs, on_bad_row="stop")
    rows[2] = row("nowhere", PARTS["c3"][0])
    with pytest.raises(ValueError, match=r"line 4 of .*train\.csv: photograph must exist .*--on-bad-image skip"):
        counts(write_table(path, rows), photographs, on_bad_image="stop")
    assert len(counts(path, photographs, on_bad_row="stop")[0]) == 2


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must have one column ImageId, EncodedPixels, Height, Width"),
    (b"ImageId,EncodedPixels,Height\na,1 1,2\n", "must have one column Width, got 'ImageId, EncodedPixels, Height'"),
    (b"ImageId,ImageId,EncodedPixels,Height,Width\n", "must have one column ImageId"),
    ("ImageId,Größe".encode("utf-16"), "must be a CSV header in UTF-8"),
])  # fmt: skip
def test_headers_that_cannot_be_used(photographs, tmp_path, content, message):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        counts(tmp_path / "train.csv", photographs)


def test_missing_files_and_a_class_rule_without_classes(photographs, tmp_path):
    with pytest.raises(FileNotFoundError, match="table 'none.csv' must exist"):
        counts(tmp_path / "none.csv", photographs)
    path = write_table(tmp_path / "train.csv", [], HEADER[:4])
    with pytest.raises(FileNotFoundError, match="photos folder 'none' must exist"):
        counts(path, tmp_path / "none")
    with pytest.raises(ValueError, match="must have one column ClassId"):
        counts(path, photographs, Filters(min_classes=2))


def test_rows_longer_than_csv_readers_take(photographs, tmp_path):
    runs = " ".join(["1 1"] * 50_000)  # 200 kB in one field; Python's csv stops at 131
    path = write_table(tmp_path / "train.csv", [{**rows_of()[0], "EncodedPixels": runs}, *rows_of()])
    masks, problems, _ = counts(path, photographs)
    assert masks["a1"][0, 0] and problems == []


def test_an_open_quote_swallows_no_rows(photographs, tmp_path):
    """Neither one that another closes further on: a row is a line."""
    path = write_table(tmp_path / "train.csv", rows_of())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], 'a1,"1 1,12,9,1,2\n', *lines[1:3], "\n" * 30, 'a1,1 1,12,9,1,"2\n', *lines[3:]]))
    masks, problems, found = counts(path, photographs)
    assert_all_found(masks)
    assert [line for line, _ in problems] == [2, 35] and found.rows == 6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_rows_in_little_memory(tmp_path):
    rows, photographs = ROWS // 8, PHOTOGRAPHS // 8  # all of them: eight times as long, 118,380 KiB
    write_large(tmp_path, rows, photographs)
    # not ru_maxrss, which on Linux begins with that of the process that starts another, here a large one
    program = (
        "import re, sys; from diffharmony.__main__ import main; status = main(sys.argv[1:]); "
        "print('peak', *re.findall(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read()), 'KiB'); sys.exit(status)"
    )
    models = [tmp_path / name for name in ("vae", "unet", "classifier")]
    for folder in models:
        folder.mkdir()
    arguments = ["--csv", tmp_path / "train.csv", "--photos", tmp_path / "train", "--out", tmp_path / "out", "--dry-run", "--json"]
    arguments += [word for folder in models for word in (f"--{folder.name}", folder)]
    done = subprocess.run(
        [sys.executable, "-c", program, "human-harmony", *map(str, arguments)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, printed, peak = done.stdout.splitlines()
    plan = json.loads(printed)
    print(peak, f"for {rows} rows of {photographs} photographs")
    assert (plan["rows"], plan["photographs"], plan["kept"], plan["damaged_rows"]) == (rows, photographs, photographs, 0)
    assert plan["to_make"] == 10 * photographs and plan["test"] == round(photographs * 7404 / 73146)
    assert not (tmp_path / "out").exists()
    assert int(peak.split()[1]) < 80_000
