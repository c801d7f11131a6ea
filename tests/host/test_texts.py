"""Help, translations and the example workflows, as the host serves them."""

from __future__ import annotations

import json
import urllib.request

import pytest

from diffharmony.tests.browser.examples import EXAMPLES
from diffharmony.tests.host.comfy_server import EXTENSION, REPOSITORY
from diffharmony.tests.host.test_inside import run_inside

DEFINITIONS = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def get(server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=60) as response:
        return response.read()


def test_translations_are_the_nodes_own_texts(host):
    """Written by `tests/host/inside/node_texts.py --write`."""
    assert run_inside(host, "node_texts.py") == DEFINITIONS


@pytest.mark.parametrize("node_id", DEFINITIONS)
def test_every_node_is_offered_with_tooltips_and_help(server, node_id):
    info = json.loads(get(server, f"/object_info/{node_id}"))[node_id]
    assert node_id.startswith("DiffHarmony") and info["category"] == "DiffHarmony"
    inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
    assert all(options[1]["tooltip"] for options in inputs.values())
    help_page = get(server, f"/extensions/{EXTENSION}/docs/{node_id}.md").decode()
    assert help_page.startswith(f"# {info['display_name']}\n")
    assert all(f"**{name}**" in help_page for name in (*inputs, *info["output_name"]))


def test_translations_are_served(server):
    assert json.loads(get(server, "/i18n"))["en"]["nodeDefs"]["DiffHarmonyVAEDecode"] == DEFINITIONS["DiffHarmonyVAEDecode"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_workflows_are_in_the_template_browser_with_their_pictures(server, name):
    assert name in json.loads(get(server, "/workflow_templates"))[EXTENSION]
    workflow = json.loads(get(server, f"/api/workflow_templates/{EXTENSION}/{name}.json"))
    assert EXAMPLES[name].needs in {node["type"] for node in workflow["nodes"]}
    assert get(server, f"/api/workflow_templates/{EXTENSION}/{name}.jpg")[:2] == b"\xff\xd8"
