"""What a folder is made with is agreed on before any process writes in it."""

import json

import pytest

from diffharmony.applications.reproduce.paper import TABLES
from diffharmony.applications.reproduce.predict import STEPS
from diffharmony.applications.reproduce.tables import prediction_folder, predictions_place
from diffharmony.common.assets import TINY
from diffharmony.common.run_folder import claim, digest
from diffharmony.dataset.pairs import read_list


def test_a_claim_stands(tmp_path):
    claim(tmp_path, {"seed": 0, "sizes": (1, 2)})
    claim(tmp_path, {"seed": 0, "sizes": (1, 2)})
    with pytest.raises(ValueError, match=r"sizes must be \[1, 2\] to go on in .*, got \[1\]. Choose another --out, or delete"):
        claim(tmp_path, {"seed": 0, "sizes": (1,)})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 0, "sizes": [1, 2]}


def test_a_digest_is_of_all_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    alone = digest(tmp_path / "a")
    assert digest(tmp_path) == alone
    (tmp_path / "b").write_bytes(b"2")
    assert digest(tmp_path) not in (alone, digest(tmp_path / "b"))


def test_reproduce_refuses_in_every_process_before_any_writes(runs, root, tmp_path):
    """Table 1's first row that is measured was begun with another seed."""
    row = next(row for row in TABLES["table1"].rows if row.method is not None)
    folder = prediction_folder(predictions_place(tmp_path, read_list(root, "IHD_train.txt")), row, 0)
    folder.mkdir(parents=True)
    method = row.method
    checkpoints = {name: digest(TINY / f"{name}.safetensors") for name in method.models}
    settings = {"size": method.size, "kept": 256, "conditional": method.conditional, "steps": STEPS, "seed": 3, "checkpoints": checkpoints}
    claim(folder, settings)
    refused = runs.start_processes(
        2, "reproduce", "table1", "--data", root, "--list", "IHD_train.txt", "--models", TINY, "--out", tmp_path, "--seed", 5
    )
    assert [run.wait() for run in refused] == [1, 1]
    for run in refused:
        assert "seed must be 3 to go on in" in run.output() and "got 5" in run.output()
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
