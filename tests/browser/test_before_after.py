"""Before and after on Harmonize Image: a slider in Nodes 2.0, which has the frontend's image compare; side by side on the classic canvas."""

from __future__ import annotations

import json

import pytest

from diffharmony.tests.browser.frontend import OPEN, QUEUE, RESEED, needs_chromium, open_frontend
from diffharmony.tests.host.comfy_server import REPOSITORY

pytestmark = needs_chromium

NODES_2 = "async on => { await app.ui.settings.setSettingValueAsync('Comfy.VueNodes.Enabled', on) }"
# What classic drawing shows of the node: its widgets, and how many pictures.
DRAWN = """
() => {
  const node = app.graph.nodes.find(n => n.type === 'DiffHarmonyHarmonizeImage');
  return [node.widgets.filter(w => node.isWidgetVisible(w)).map(w => w.name), node.imgs.length];
}
"""


@pytest.fixture
def page(server):
    with open_frontend(server.url) as opened:
        yield opened
        opened.evaluate(NODES_2, False)  # the server keeps it for all


def pictures(page) -> list[tuple[str, str]]:
    """(the picture's address, how it is clipped) of the slider's before and after, once both are loaded."""
    shown = [page.get_by_alt_text(f"{which} image", exact=True) for which in ("Before", "After")]
    for one in shown:
        one.wait_for()
        page.wait_for_function("picture => picture.naturalWidth > 0", arg=one.element_handle())
    return [(one.get_attribute("src"), one.get_attribute("style") or "") for one in shown]


def test_a_slider_in_nodes_2_and_side_by_side_without(server, host, page):
    workflow = json.loads((REPOSITORY / "workflows" / "harmonize.json").read_text(encoding="utf-8"))
    page.evaluate(NODES_2, True)
    page.evaluate(OPEN, workflow)
    page.evaluate(RESEED, 20261126)
    end = page.evaluate(QUEUE)
    assert end["name"] == "execution_success", end
    (before, _), (after, _) = pictures(page)
    assert before.partition("&rand")[0] != after.partition("&rand")[0]
    (REPOSITORY / "out").mkdir(exist_ok=True)
    area = page.get_by_alt_text("After image", exact=True).bounding_box()
    for share in (0.25, 0.75):
        page.mouse.move(area["x"] + share * area["width"], area["y"] + area["height"] / 2, steps=3)
        page.wait_for_timeout(300)
        page.screenshot(path=REPOSITORY / "out" / f"slider_{share}_{host.version.replace(' ', '-')}.png")
        clipped = float(pictures(page)[0][1].partition("inset(0")[2].split("%")[0].split()[-1])
        assert clipped == pytest.approx(100 * (1 - share), abs=3), "the pointer is where before ends"
    saved = page.evaluate("() => app.graph.serialize()")
    values = {one["type"]: one.get("widgets_values") for one in saved["nodes"]}["DiffHarmonyHarmonizeImage"]
    assert not any(isinstance(value, (dict, list)) for value in values), "pictures of a run are not a workflow's"

    page.evaluate(NODES_2, False)
    page.wait_for_timeout(2000)
    page.screenshot(path=REPOSITORY / "out" / f"side_by_side_{host.version.replace(' ', '-')}.png")
    widgets, count = page.evaluate(DRAWN)
    assert "strength" in widgets and "before_after" not in widgets and count == 2

    page.evaluate(OPEN, workflow)
    page.evaluate(NODES_2, True)
    assert not page.get_by_alt_text("Before image", exact=True).count()
    page.get_by_text("Unsaved Workflow (2)").first.click()
    assert pictures(page)[0][0].partition("&rand")[0] == before.partition("&rand")[0], "shown again where the workflow's tab is"
