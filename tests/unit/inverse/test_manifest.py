"""`candidates.jsonl`: read by pair, whatever the order of its lines, and never out of its folder."""

import json

import pytest

from diffharmony.inverse.manifest import Candidate, as_line, read_manifest, read_pairs

RECORD = {"file_name": "a", "real": "b", "mask": "c", "k": 1}


def test_candidates_of_a_pair_are_together(tmp_path):
    numbers = [(pair, k) for k in (1, 2) for pair in (0, 1)]
    names = [f"HCOCO/cand_composite_images/ä{pair}_1_{k}.png" for pair, k in numbers]
    records = [{"file_name": name, "real": "r", "mask": f"m{pair}", "k": k, "seed": 3} for name, (pair, k) in zip(names, numbers)]
    (tmp_path / "candidates.jsonl").write_text("\n".join(map(as_line, records)), encoding="utf-8")
    pairs = read_pairs(tmp_path)
    assert [[one.file_name for one in pair] for pair in pairs] == [names[::2], names[1::2]]
    assert pairs[1][1].composite == "HCOCO/composite_images/ä1_1_2.png"
    assert Candidate("cand_composite_images/a_1_1.png", "", "", 1).composite == "composite_images/a_1_1.png"


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a\\b.png", "a/../../b.png"])
@pytest.mark.parametrize("field", ["file_name", "real", "mask"])
def test_paths_that_lead_out_are_refused(tmp_path, field, name):
    (tmp_path / "candidates.jsonl").write_text(json.dumps({**RECORD, field: name}))
    with pytest.raises(ValueError, match="paths in line 1 of .*candidates.jsonl must stay in its folder, got "):
        list(read_manifest(tmp_path / "candidates.jsonl"))


@pytest.mark.parametrize("line", ["{", "[]", '{"file_name": "a", "real": "b", "mask": "c"}', json.dumps({**RECORD, "k": "1"}), "\0"])
def test_a_manifest_that_cannot_be_read_is_named_by_line(tmp_path, line):
    (tmp_path / "candidates.jsonl").write_text(f"{json.dumps(RECORD)}\n{line}\n")
    with pytest.raises(ValueError, match="line 2 of .*candidates.jsonl must be a JSON object with file_name, real, mask, k"):
        list(read_manifest(tmp_path / "candidates.jsonl"))


def test_missing_and_empty_ones_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make candidates with diffharmony generate"):
        read_pairs(tmp_path)
    (tmp_path / "candidates.jsonl").touch()
    with pytest.raises(ValueError, match="must name at least one candidate, got none"):
        read_pairs(tmp_path)
