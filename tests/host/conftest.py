"""Queueing a prompt on the server of `tests/conftest.py`."""

from __future__ import annotations

import pytest

from diffharmony.tests.host.comfy_client import Result, run_prompt


@pytest.fixture
def run(server):
    """Queue a prompt that succeeds; the result's images are uint8."""

    def queue(prompt) -> Result:
        return run_prompt(server.url, prompt)

    return queue


@pytest.fixture
def error_of(server):
    """Queue a prompt that fails; the message that the user sees."""

    def queue(prompt) -> str:
        return run_prompt(server.url, prompt, fails=True).error

    return queue
