"""A small client of the host's API: queue a prompt, wait for it, fetch what it made."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

RUN_SECONDS = 300


@dataclass(frozen=True)
class Result:
    """What became of a prompt: images, files and texts by node id, or the error that stopped it; and how far its nodes said they were."""

    images: dict[str, list[np.ndarray]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None
    failed_node: str | None = None
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # (done, total)


class PromptFailed(RuntimeError):
    """A prompt that was to succeed did not."""


def run_prompt(
    url: str, prompt: dict[str, Any], workflow: dict[str, Any] | None = None, fails: bool = False, interrupt: tuple[str, int] | None = None
) -> Result:
    """Queue an API-format prompt and wait for its end.

    workflow: the UI form to keep in saved pictures. interrupt: (node id, value): stop the run when that node's progress is so far.
    Images come back as uint8 arrays [H,W,3 or 4].
    Raises: PromptFailed when it fails, unless `fails` says that it should; then when it succeeds.
    """
    result = asyncio.run(_run(url, prompt, workflow, interrupt))
    if (result.error is not None) != fails:
        raise PromptFailed(result.error or f"the prompt was to fail, but made {sorted(result.images) or 'nothing'}")
    return result


async def _run(url: str, prompt: dict[str, Any], workflow: dict[str, Any] | None, interrupt: tuple[str, int] | None) -> Result:
    client_id = uuid.uuid4().hex
    timeout = aiohttp.ClientTimeout(total=RUN_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout) as session, session.ws_connect(f"/ws?clientId={client_id}") as socket:
        body = {"prompt": prompt, "client_id": client_id, "extra_data": {"extra_pnginfo": {"workflow": workflow}} if workflow else {}}
        async with session.post("/prompt", json=body) as response:
            answer = await response.json()
        # The host runs what it can of a prompt with errors; here that would hide them.
        if answer.get("node_errors") or "prompt_id" not in answer:
            return _refused(answer)
        progress: dict[str, list[tuple[int, int]]] = {}
        stop = partial(session.post, "/interrupt", json={})
        failure = await asyncio.wait_for(_wait(socket, answer["prompt_id"], progress, interrupt, stop), RUN_SECONDS)
        result = failure or await _fetch(session, answer["prompt_id"])
        return replace(result, progress=progress)


def _refused(answer: dict[str, Any]) -> Result:
    details = [error["details"] for node in answer.get("node_errors", {}).values() for error in node["errors"]]
    return Result(error="; ".join([answer.get("error", {}).get("message", "prompt refused"), *details]))


async def _wait(
    socket: aiohttp.ClientWebSocketResponse,
    prompt_id: str,
    progress: dict[str, list[tuple[int, int]]],
    interrupt: tuple[str, int] | None,
    stop: Callable[[], Any],
) -> Result | None:
    async for message in socket:
        if message.type != aiohttp.WSMsgType.TEXT:
            continue
        event = json.loads(message.data)
        data = event.get("data", {})
        if data.get("prompt_id") != prompt_id:
            continue
        if event["type"] == "progress":
            progress.setdefault(data["node"], []).append((data["value"], data["max"]))
            if interrupt and interrupt[0] == data["node"] and data["value"] >= interrupt[1]:
                interrupt = None
                await stop()
        if event["type"] == "execution_success":
            return None
        if event["type"] in ("execution_error", "execution_interrupted"):
            return Result(error=data.get("exception_message", event["type"]).strip(), failed_node=data.get("node_type"))
    return Result(error="the host closed the connection")


async def _history(session: aiohttp.ClientSession, prompt_id: str) -> dict[str, Any]:
    # The host announces success before it writes its history.
    while True:
        async with session.get(f"/history/{prompt_id}") as response:
            history = await response.json()
        if prompt_id in history:
            return history[prompt_id]
        await asyncio.sleep(0.02)


async def _fetch(session: aiohttp.ClientSession, prompt_id: str) -> Result:
    outputs = (await asyncio.wait_for(_history(session, prompt_id), RUN_SECONDS))["outputs"]
    images: dict[str, list[np.ndarray]] = {}
    files: dict[str, list[str]] = {}
    texts = {node_id: output["text"] for node_id, output in outputs.items() if "text" in output}
    for node_id, output in outputs.items():
        for place in output.get("images", []):
            async with session.get("/view", params=place) as response:
                images.setdefault(node_id, []).append(np.asarray(Image.open(io.BytesIO(await response.read()))))
        for place in (*output.get("images", []), *output.get("latents", [])):
            files.setdefault(node_id, []).append(place["filename"])
    return Result(images=images, files=files, texts=texts)
