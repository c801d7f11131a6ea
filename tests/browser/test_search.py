"""What a stranger types into ComfyUI's node search finds Harmonize Image, or Composite Foreground, which comes before it."""

from __future__ import annotations

import pytest

from diffharmony.tests.browser.frontend import WAIT_MS, needs_chromium, open_frontend

pytestmark = needs_chromium

RESULTS = "[...document.querySelectorAll('[role=option], li.p-autocomplete-option')].filter(e => e.offsetParent).map(e => e.innerText)"
# The search orders by a node's id, its display name and how much it is used; aliases only let a node in, and core nodes are named so.
WORDS = {
    "Harmonize Image": ("harmonize", "relight", "color match", "match light", "lighting"),
    "Composite Foreground": ("blend", "composite", "paste"),
}


@pytest.fixture(scope="module")
def page(server):
    with open_frontend(server.url, needs="DiffHarmonyHarmonizeImage") as opened:
        opened.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        yield opened


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in WORDS.items() for word in words])
def test_the_node_is_among_the_first_three(page, name, word):
    field = page.get_by_placeholder("Add a node")
    field.fill("no such node")
    page.wait_for_function(f"!{RESULTS}.length", timeout=WAIT_MS)
    field.fill(word)
    # on a busy machine the list of all nodes may come in between
    page.wait_for_function(f"name => {RESULTS}.slice(0, 3).some(one => one.includes(name))", arg=name, timeout=WAIT_MS)
