"""ComfyUI's own frontend in a headless Chromium, talking to a server on this machine only."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from contextlib import contextmanager
from typing import Any, Iterator

import pytest
from playwright.sync_api import Page, Route, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
WAIT_MS = 120_000
OPEN = "async workflow => { await app.loadGraphData(workflow) }"
# A seed that no other test has: what the host knows already it would not run again.
RESEED = "seed => { app.graph.nodes.flatMap(n => n.widgets ?? []).find(w => w.name === 'seed').value = seed }"
# Queues the open graph as the button does, and says how its run ended.
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


def chromium() -> str | None:
    """Chromium's path, or None where it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# for tests that need it; in continuous integration (DIFFHARMONY_BROWSER=required) they run, and fail without it
needs_chromium = pytest.mark.skipif(
    chromium() is None and os.environ.get("DIFFHARMONY_BROWSER") != "required",
    reason="Chromium is not installed (Debian: apt-get install chromium)",
)


@contextmanager
def open_frontend(url: str, needs: str = "DiffHarmonyVAEDecode") -> Iterator[Page]:
    """The frontend of the server at `url`, ready when the node type `needs` is registered."""
    _skip_tutorial(url)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            page.route("**/*", _only_loopback)
            page.goto(url)
            page.wait_for_function("!!(window.app && window.app.graph)", timeout=WAIT_MS)
            page.wait_for_function("type => !!LiteGraph.registered_node_types[type]", arg=needs, timeout=WAIT_MS)
            yield page
        finally:
            browser.close()


def as_prompt(page: Page) -> dict[str, Any]:
    """The open graph in API format, as the frontend would queue it."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def _skip_tutorial(url: str) -> None:
    # A new user is shown the template browser and a workflow of the host's choice, in front of ours.
    body = json.dumps({"Comfy.TutorialCompleted": True}).encode()
    request = urllib.request.Request(f"{url}/settings", body, {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=30).close()


def _only_loopback(route: Route) -> None:
    if route.request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()
