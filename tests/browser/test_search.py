"""What a stranger types into ComfyUI's node search finds Harmonize Image."""

from __future__ import annotations

import pytest

from diffharmony.tests.browser.frontend import needs_chromium, open_frontend

pytestmark = needs_chromium

RESULTS = "[...document.querySelectorAll('[role=option], li.p-autocomplete-option')].filter(e => e.offsetParent).map(e => e.innerText)"
# Not blend, composite and paste: there the search puts core nodes first whose own names have the word, or that are used more; aliases
# count for nothing in its order.
WORDS = ("harmonize", "relight", "color match", "match light", "lighting")


@pytest.fixture(scope="module")
def page(server):
    with open_frontend(server.url, needs="DiffHarmonyHarmonizeImage") as opened:
        opened.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        yield opened


@pytest.mark.parametrize("word", WORDS)
def test_harmonize_image_is_among_the_first_three(page, word):
    field = page.locator("input[placeholder]:visible").first
    field.fill("")
    field.press_sequentially(word)
    page.wait_for_timeout(3000)
    assert any("Harmonize Image" in found for found in page.evaluate(RESULTS)[:3])
