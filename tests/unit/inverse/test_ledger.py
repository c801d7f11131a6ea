"""Manifests of hundreds of thousands of lines: read by their places, never held; and journals that were cut off."""

import json
import tracemalloc

import pytest

from diffharmony.inverse.manifest import Journal, Ledger, join_journals, read_journals, read_manifest
from diffharmony.inverse.scoring import Manifest

COUNT = 2000
NEEDED = {"key": str, "score": float}


def record(number):
    """Pairs of four, of which every other has its candidates all over the file."""
    pair = number // 4 if number % 2 else number % (COUNT // 4)
    name = f"HCOCO/cand_composite_images/ä{pair}_1_{number}.png"
    return {"file_name": name, "real": "HCOCO/real_images/ä.png", "mask": f"ä{pair}", "k": number, "distance": 1.5, "more": "é" * 1000}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with Journal(out / "candidates.jsonl") as journal:
        for number in range(COUNT):
            journal.add(record(number))
    return out


def held(call):
    """What a call returns, and how many bytes stay in use."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_lines_of_a_manifest_are_not_held(out):
    size = (out / "candidates.jsonl").stat().st_size
    manifest, used = held(lambda: Manifest(out / "candidates.jsonl"))
    assert used < size / 20
    expected = {}
    for number in range(COUNT):
        expected.setdefault(record(number)["mask"], []).append(record(number))
    assert list(manifest) == list(expected.values()) and list(manifest) == list(manifest)
    assert (len(manifest), manifest.count) == (len(expected), COUNT)


def test_lines_of_a_ledger_are_not_held_and_are_copied_as_they_were(out, tmp_path):
    text = (out / "candidates.jsonl").read_bytes()
    (tmp_path / "candidates.jsonl").write_bytes(text.replace(b'"k": ', b'"k":   ').rstrip())
    ledger = Ledger(tmp_path)
    known, used = held(lambda: ledger.begin(lambda name: not name.endswith("_7.png")))
    assert used < len(text) / 5 and len(known) == COUNT - 1
    with ledger.journal(0) as journal:
        journal.add(record(7))
    masks = sorted({record(number)["mask"] for number in range(COUNT)})
    ledger.finish(known, masks)
    lines = (tmp_path / "candidates.jsonl").read_bytes().splitlines()
    assert sum(b'"k":   ' in line for line in lines) == COUNT - 1 and not (tmp_path / ".candidates.journal").exists()
    expected = sorted(map(record, range(COUNT)), key=lambda one: (masks.index(one["mask"]), one["k"]))
    assert list(map(json.loads, lines)) == expected


def test_journals_that_kills_left_become_one(tmp_path):
    with Journal(tmp_path / "process-00000.jsonl") as journal:
        journal.add({"key": "a", "score": 0.5})
    (tmp_path / "process-00001.jsonl").write_bytes(b'{"key": "b", "score": 0.25}\n{"key": 1, "score": 0.5}\n\0\0\n{"key": "\xc3')
    for _ in range(2):
        join_journals(tmp_path, NEEDED, lambda record: record["key"] != "a")
        assert [path.name for path in tmp_path.iterdir()] == ["kept.jsonl"]
        assert [found for _, _, found in read_journals(tmp_path, NEEDED)] == [{"key": "b", "score": 0.25}]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a\\b.png", "a/../../b.png"])
@pytest.mark.parametrize("field", ["file_name", "real", "mask"])
def test_paths_that_lead_out_are_refused(tmp_path, field, name):
    (tmp_path / "candidates.jsonl").write_text(json.dumps({"file_name": "a", "real": "b", "mask": "c", "k": 1, field: name}))
    with pytest.raises(ValueError, match="paths in line 1 of .*candidates.jsonl must stay in its folder, got "):
        list(read_manifest(tmp_path / "candidates.jsonl"))
