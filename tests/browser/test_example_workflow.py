"""workflows/harmonize.json opened and queued in ComfyUI's own frontend, as a user would."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from diffharmony.tests.browser.author_workflow import numbered
from diffharmony.tests.browser.frontend import as_prompt, chromium, open_frontend
from diffharmony.tests.host import prompts
from diffharmony.tests.host.comfy_server import REPOSITORY

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

WORKFLOW = json.loads((REPOSITORY / "workflows" / "harmonize.json").read_text(encoding="utf-8"))
QUEUE = """
async () => {
  const ended = new Promise(resolve => {
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
      app.api.addEventListener(name, event => resolve({name, message: event.detail?.exception_message}));
  });
  await app.queuePrompt(0, 1);
  return await ended;
}
"""


def without_meta(prompt: dict) -> dict:
    return {name: {key: value for key, value in entry.items() if key != "_meta"} for name, entry in prompt.items()}


def test_the_example_opens_runs_and_is_what_tests_and_demo_queue(server):
    saved = server.base / "output"
    before = set(saved.glob("harmonized*.png"))
    with open_frontend(server.url) as page:
        page.evaluate("async workflow => { await app.loadGraphData(workflow) }", WORKFLOW)
        prompt = without_meta(as_prompt(page))
        # A seed that no other test has: what the host knows already it would not run again.
        page.evaluate("() => { app.graph.nodes.find(n => n.type === 'KSampler').widgets[0].value = 20251122 }")
        end = page.evaluate(QUEUE)
    assert prompt == numbered(prompts.harmonize())[0]
    assert end["name"] == "execution_success", end
    (picture,) = set(saved.glob("harmonized*.png")) - before
    types = {node["type"] for node in json.loads(Image.open(picture).info["workflow"])["nodes"]}
    assert {"DiffHarmonyVAEDecode", "MarkdownNote"} <= types
