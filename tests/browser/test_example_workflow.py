"""The workflows of workflows/ opened and queued in ComfyUI's own frontend, as a user would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from diffharmony.dataset.pairs import read_list
from diffharmony.tests.browser.author_workflow import numbered
from diffharmony.tests.browser.examples import EXAMPLES
from diffharmony.tests.browser.frontend import as_prompt, needs_chromium, open_frontend
from diffharmony.tests.host.comfy_server import REPOSITORY, VERSIONS

pytestmark = needs_chromium

QUEUE = """
async () => {
  const ended = new Promise(resolve => {
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
      app.api.addEventListener(name, event => resolve({name, message: event.detail?.exception_message}), {once: true});
  });
  await app.queuePrompt(0, 1);
  return await ended;
}
"""
# A seed that no other test has: what the host knows already it would not run again.
RESEED = "() => { app.graph.nodes.flatMap(n => n.widgets ?? []).find(w => w.name === 'seed').value = 20251122 }"


@pytest.fixture(scope="module")
def page(server):
    with open_frontend(server.url) as opened:
        yield opened


def without_meta(prompt: dict) -> dict:
    return {name: {key: value for key, value in entry.items() if key != "_meta"} for name, entry in prompt.items()}


def run_example(page, name: str) -> None:
    workflow = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
    assert without_meta(as_prompt(page)) == numbered(EXAMPLES[name].prompt())[0]
    page.evaluate(RESEED)
    end = page.evaluate(QUEUE)
    assert end["name"] == "execution_success", end


def types_in(picture: Path) -> set[str]:
    return {node["type"] for node in json.loads(Image.open(picture).info["workflow"])["nodes"]}


@pytest.mark.parametrize(("name", "prefix", "count"), [("harmonize", "harmonized", 1), ("harmonize_advanced", "harmonized", 1), ("inverse", "candidate", 10)])
def test_the_example_opens_runs_and_is_what_tests_and_demo_queue(server, page, name, prefix, count):
    saved = server.base / "output"
    before = set(saved.glob(f"{prefix}*.png"))
    run_example(page, name)
    made = set(saved.glob(f"{prefix}*.png")) - before
    assert len(made) == count
    assert {EXAMPLES[name].needs, "MarkdownNote"} <= types_in(made.pop())


def test_building_a_dataset_opens_runs_and_leaves_a_pair(server, page):
    root = server.base / "output" / "harmonization_pairs"
    before = len(read_list(root, "IHD_train.txt")) if root.exists() else 0
    run_example(page, "build_dataset")
    pairs = read_list(root, "IHD_train.txt")
    assert len(pairs) == before + 1
    assert len({Image.open(path).size for path in (pairs[-1].composite, pairs[-1].mask, pairs[-1].real)}) == 1


def test_a_missing_model_is_named_with_where_it_belongs(host, page):
    """As in a workflow of `diffharmony push` whose files were chosen from the lists: not "Unknown"."""
    if host.version == VERSIONS[1]:
        pytest.skip("its frontend has another panel")
    workflow = json.loads((REPOSITORY / "workflows" / "harmonize_advanced.json").read_text(encoding="utf-8"))
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "DiffHarmonyLoadHarmonyVAE"]
    loader["properties"]["models"][0]["name"] = loader["widgets_values"][0] = "absent_vae.safetensors"
    page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
    page.get_by_text("View details").first.click()
    page.get_by_text("Missing Models").first.wait_for()
    shown = page.inner_text("body")
    assert "absent_vae.safetensors\nvae\n" in shown and "Unknown" not in shown, shown
