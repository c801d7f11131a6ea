"""Write the workflows of workflows/, and those that `diffharmony push` publishes, from the API-format prompts of tests/host, through ComfyUI's own frontend.

    .venv/bin/python -m diffharmony.tests.browser.author_workflow [harmonize compose …]

Needs Chromium. Also takes out/<name>_workflow.png, pictures of the graphs to look at.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from diffharmony.applications.publish.workflows import with_bundled_models
from diffharmony.tests.browser.examples import EXAMPLES, PUBLISHED
from diffharmony.tests.browser.frontend import open_frontend
from diffharmony.tests.host import prompts
from diffharmony.tests.host.comfy_server import REPOSITORY, ComfyServer

# `graph` holds the last node that `loadApiJson` made; a note exists only in the frontend.
ARRANGE = """
async ({api, name, layout, note, groups, reroutes}) => {
  app.loadApiJson(api, name);
  for (const [id, [pos, size, title]] of Object.entries(layout)) {
    const node = app.graph.getNodeById(Number(id));
    node.pos = pos;
    node.setSize(size);
    if (title) node.title = title;
  }
  for (const [id, input, points] of reroutes) {
    const link = app.graph.getNodeById(Number(id)).inputs.find(one => one.name === input).link;
    for (const point of points) app.graph.createReroute(point, app.graph.getLink(link));
  }
  const noteNode = LiteGraph.createNode('MarkdownNote');
  app.graph.add(noteNode);
  noteNode.pos = note.pos;
  noteNode.setSize(note.size);
  noteNode.title = note.title;
  noteNode.widgets[0].value = note.text;
  for (const [title, [x, y, width, height]] of Object.entries(groups)) {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [x, y];
    group.size = [width, height];
    app.graph.add(group);
  }
  for (const node of app.graph.nodes) {
    const control = node.widgets?.find(w => w.name === 'control_after_generate');
    if (control) control.value = 'fixed';
  }
  const far = axis => Math.max(...app.graph.nodes.map(node => node.pos[axis] + node.size[axis]));
  app.canvas.ds.scale = Math.min(0.85, 1800 / far(0), 920 / far(1));
  app.canvas.ds.offset = [120, 160];  // beside and under what lies over the canvas
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


def author(server: ComfyServer, name: str) -> Path:
    """Write one workflow, and its picture into out/."""
    example = {**EXAMPLES, **PUBLISHED}[name]
    api, numbers = numbered(example.prompt())
    layout = {numbers[node]: place for node, place in example.layout.items()}
    with open_frontend(server.url, needs=example.needs) as page:
        reroutes = [(numbers[node], input, points) for (node, input), points in example.reroutes.items()]
        given = {"api": api, "name": name, "layout": layout, "note": dataclasses.asdict(example.note), "groups": example.groups, "reroutes": reroutes}
        workflow = page.evaluate(ARRANGE, given)
        page.wait_for_timeout(3000)
        (REPOSITORY / "out").mkdir(exist_ok=True)
        page.screenshot(path=REPOSITORY / "out" / f"{name}_workflow.png")
    path = REPOSITORY / ("workflows" if name in EXAMPLES else "applications/publish") / f"{name}.json"
    path.write_text(json.dumps(with_bundled_models(workflow), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*EXAMPLES, *PUBLISHED], metavar="name", help="which workflows; all of them by default")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        for name in names:
            print(author(server, name).relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
