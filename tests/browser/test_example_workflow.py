"""The workflows of workflows/ opened and queued in ComfyUI's own frontend, as a user would."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from PIL import Image

from diffharmony.applications.publish.card import Published
from diffharmony.applications.publish.push import find_checkpoints, write_folder
from diffharmony.dataset.pairs import read_list
from diffharmony.refinement import save_refinement
from diffharmony.tests.browser.author_workflow import numbered
from diffharmony.tests.browser.examples import EXAMPLES, PUBLISHED
from diffharmony.tests.browser.frontend import OPEN, QUEUE, RESEED, as_prompt, needs_chromium, open_frontend
from diffharmony.tests.host.comfy_server import NEWEST, REPOSITORY, VERSIONS
from diffharmony.tests.host.prompts import changed
from diffharmony.tests.made.clip import FRAMES, RATE
from diffharmony.tests.made.refinement import small_refinement

pytestmark = needs_chromium

SHOWN = """
() => {
  const of = type => Object.entries(app.nodeOutputs ?? {}).find(([id]) => app.graph.getNodeById(Number(id))?.type === type)?.[1];
  return [of('PreviewAny').text, of('PreviewImage').images.length];
}
"""


@pytest.fixture(scope="module")
def page(server):
    with open_frontend(server.url) as opened:
        yield opened


def without_extras(prompt: dict, wanted: dict) -> dict:
    """The prompt without titles, and of core nodes without what only some hosts and frontends ask for beside what is wanted."""
    found = {}
    for name, entry in prompt.items():
        own = entry["class_type"].startswith("DiffHarmony")
        inputs = {key: value for key, value in entry["inputs"].items() if own or key in wanted[name]["inputs"]}
        found[name] = {"class_type": entry["class_type"], "inputs": inputs}
    return found


def run_example(page, name: str) -> None:
    run_workflow(page, name, json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text(encoding="utf-8")), EXAMPLES[name].prompt())


def run_workflow(page, name: str, workflow: dict, prompt: dict) -> None:
    """Open and queue it; name: of its picture in out/. prompt: what the frontend must make of it."""
    page.evaluate(OPEN, workflow)
    wanted = numbered(prompt)[0]
    assert without_extras(as_prompt(page), wanted) == wanted
    page.evaluate(RESEED, 20251122)
    end = page.evaluate(QUEUE)
    picture_of(page, name)
    assert end["name"] == "execution_success", end


def picture_of(page, name: str) -> None:
    """The graph after its run, into out/, to look at."""
    page.wait_for_timeout(1000)
    (REPOSITORY / "out").mkdir(exist_ok=True)
    page.screenshot(path=REPOSITORY / "out" / f"{name}_run.png")


def types_in(picture: Path) -> set[str]:
    return {node["type"] for node in json.loads(Image.open(picture).info["workflow"])["nodes"]}


@pytest.mark.parametrize(("name", "prefix", "count"), [("harmonize", "harmonized", 1), ("compose", "harmonized", 1), ("harmonize_advanced", "harmonized", 1), ("inverse", "candidate", 10)])
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


@pytest.mark.parametrize("host", [version for version in VERSIONS if version == NEWEST], indirect=True)  # older frontends have another panel
def test_a_missing_model_is_named_with_where_it_belongs(page):
    """As in a workflow of `diffharmony push` whose files were chosen from the lists: not "Unknown"."""
    workflow = json.loads((REPOSITORY / "workflows" / "harmonize_advanced.json").read_text(encoding="utf-8"))
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "DiffHarmonyLoadHarmonyVAE"]
    loader["properties"]["models"][0]["name"] = loader["widgets_values"][0] = "absent_vae.safetensors"
    page.evaluate(OPEN, workflow)
    page.get_by_text("View details").first.click()
    page.get_by_text("Missing Models").first.wait_for()
    shown = page.inner_text("body")
    assert "absent_vae.safetensors\nvae\n" in shown and "Unknown" not in shown, shown


def test_a_video_opens_runs_and_keeps_its_frames_and_rate(server, page):
    run_example(page, "video")
    (made,) = (server.base / "output").glob("harmonized_video*.mp4")
    with av.open(str(made)) as film:
        (stream,) = film.streams
        assert (len(list(film.decode(stream))), stream.average_rate) == (FRAMES, RATE)


def test_comparing_opens_runs_and_shows_figures_and_differences(page):
    run_example(page, "compare")
    texts, pictures = page.evaluate(SHOWN)
    assert [line.split(":")[0] for text in texts for line in text.splitlines()] == ["image 0", "image 1", "mean of 2"]
    assert pictures == 2


def test_what_push_publishes_with_a_refinement_stage_opens_and_runs_with_no_file_of_it_here(server, host, hub, page, tmp_path):
    name = f"acme/refinement-{host.version.replace(' ', '-')}"
    save_refinement(small_refinement(), tmp_path / "refinement.safetensors")
    pushed = tmp_path / "pushed"
    pushed.mkdir()
    write_folder(find_checkpoints([tmp_path / "refinement.safetensors"]), [], Published(name, "v1"), pushed)
    repository = hub.add(name, pushed)
    workflow = json.loads((pushed / "workflow.json").read_text(encoding="utf-8"))
    repository.tags["v1"] = repository.branches["main"]
    run_workflow(page, "refine", workflow, changed(PUBLISHED["refine"].prompt(), refinement={"hub_id": f"{name}@v1:refinement.safetensors"}))
    assert f"{name}/refinement.safetensors" in hub.downloads
    assert "Missing Models" not in page.inner_text("body")
