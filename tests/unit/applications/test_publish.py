"""What makes checkpoints public: the workflows' links, the card, the folder that would be uploaded, and the upload to a Hub of our own."""

import json

import pytest

from diffharmony.applications.publish.workflows import BUNDLED_URL, LOADERS, with_bundled_models
from diffharmony.common.assets import BUNDLED_MARK, ROOT, TINY
from diffharmony.common.weights.layout import MODEL_FOLDERS

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_loader_of_every_workflow_says_what_it_loads_and_where_that_belongs(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        assert node["type"] in LOADERS or not node["type"].startswith("DiffHarmonyLoad")
        if node["type"] in LOADERS:
            (entry,) = node["properties"]["models"]
            assert entry["name"] + BUNDLED_MARK == node["widgets_values"][0]
            assert entry["url"] == f"{BUNDLED_URL}/{entry['name']}" and (TINY / entry["name"]).is_file()
            assert entry["directory"] == MODEL_FOLDERS[LOADERS[node["type"]][0]]
    assert with_bundled_models(workflow) == workflow
