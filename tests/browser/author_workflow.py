"""Write workflows/harmonize.json from the API-format prompt of tests/host/prompts.py, through ComfyUI's own frontend.

    .venv/bin/python -m diffharmony.tests.browser.author_workflow

Needs Chromium and the tiny models. Also takes out/harmonize_workflow.png, a picture of the graph to look at.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from diffharmony.tests.browser.frontend import open_frontend
from diffharmony.tests.host import prompts
from diffharmony.tests.host.comfy_server import REPOSITORY, ComfyServer

# Node of the prompt -> (position, size, title or None for the node's own).
LAYOUT: dict[str, tuple[tuple[int, int], tuple[int, int], str | None]] = {
    "composite": ((40, 80), (300, 330), "Composite image"),
    "mask": ((40, 460), (300, 350), "Foreground mask (white = foreground)"),
    "vae": ((380, 80), (330, 60), None),
    "unet": ((380, 190), (330, 80), None),
    "conditioning": ((750, 80), (260, 110), None),
    "sampler": ((1050, 80), (290, 270), None),
    "decode": ((1380, 80), (270, 130), None),
    "conditional": ((1690, 80), (380, 380), "Harmonized image"),
    "plain_decode": ((1380, 510), (270, 50), "VAE Decode, for comparison"),
    "plain": ((1690, 510), (380, 350), "Plain decode"),
}
NOTE = {
    "pos": [380, 460],
    "size": [630, 190],
    "title": "How to use",
    "text": (
        "**Harmonize a composite image**\n\n"
        "1. Load the composite image (a foreground pasted on a background) and its mask. In the mask, white is the foreground.\n"
        "2. Queue. The foreground is relit to match the background; everything outside the mask stays as it is.\n\n"
        "The KSampler settings belong to the model: *euler_ancestral*, *normal*, 5 steps, cfg 1, denoise 1.\n\n"
        "**Harmony VAE Decode** decodes under the composite and its mask, which keeps fine detail. "
        "The plain VAE Decode below it shows the difference."
    ),
}

# `graph` holds the last node that `loadApiJson` made; a note exists only in the frontend.
ARRANGE = """
async ({api, layout, note}) => {
  app.loadApiJson(api, 'harmonize');
  for (const [id, [pos, size, title]] of Object.entries(layout)) {
    const node = app.graph.getNodeById(Number(id));
    node.pos = pos;
    node.setSize(size);
    if (title) node.title = title;
  }
  const noteNode = LiteGraph.createNode('MarkdownNote');
  app.graph.add(noteNode);
  noteNode.pos = note.pos;
  noteNode.setSize(note.size);
  noteNode.title = note.title;
  noteNode.widgets[0].value = note.text;
  for (const node of app.graph.nodes) {
    const control = node.widgets?.find(w => w.name === 'control_after_generate');
    if (control) control.value = 'fixed';
  }
  app.canvas.ds.scale = 0.85;
  app.canvas.ds.offset = [60, 80];
  return app.graph.serialize();
}
"""


def numbered(prompt: prompts.Prompt) -> tuple[dict[str, Any], dict[str, int]]:
    """The prompt with the frontend's kind of node ids, and which name became which number."""
    numbers = {name: index for index, name in enumerate(prompt, start=1)}
    api = {}
    for name, entry in prompt.items():
        inputs = {key: [str(numbers[value[0]]), value[1]] if isinstance(value, list) else value for key, value in entry["inputs"].items()}
        api[str(numbers[name])] = {**entry, "inputs": inputs}
    return api, numbers


def main() -> None:
    api, numbers = numbered(prompts.harmonize())
    layout = {numbers[name]: place for name, place in LAYOUT.items()}
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        with open_frontend(server.url) as page:
            workflow = page.evaluate(ARRANGE, {"api": api, "layout": layout, "note": NOTE})
            page.wait_for_timeout(3000)
            (REPOSITORY / "out").mkdir(exist_ok=True)
            page.screenshot(path=REPOSITORY / "out" / "harmonize_workflow.png")
    path = REPOSITORY / "workflows" / "harmonize.json"
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path.relative_to(REPOSITORY)}: {len(workflow['nodes'])} nodes")


if __name__ == "__main__":
    main()
