"""A Hub that answers what no Hub should: names that lead out of their folder, other JSON, other files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from diffharmony.tests.faults.damage import json_of
from diffharmony.tests.made.hub_server import HubServer, Repository, connect


class HostileHub(HubServer):
    """rng: damages a third of the answers that are JSON."""

    rng: Random | None = None

    async def _info(self, request: web.Request) -> web.Response:
        return self._damaged(await super()._info(request))

    async def _tree(self, request: web.Request) -> web.Response:
        return self._damaged(await super()._tree(request))

    async def _refs(self, request: web.Request) -> web.Response:
        return self._damaged(await super()._refs(request))

    def _damaged(self, answer: web.Response) -> web.Response:
        if self.rng is None or self.rng.random() > 0.35:
            return answer
        text = json_of(json.loads(answer.body), self.rng)
        return web.Response(body=text.encode("utf-8", "replace"), content_type="application/json")


_RUNNING: list[HostileHub] = []  # one in each process


def hostile_hub(files: dict[str, bytes], cache: Path, rng: Random, call: Callable[[], object]) -> None:
    """Call with a Hub whose only repository, owner/name, holds these files under the tag v1."""
    if not _RUNNING:
        _RUNNING.append(HostileHub().__enter__())
    server = _RUNNING[0]
    server.repositories.clear()
    server.rng = rng
    server.repositories["owner/name"] = repository = Repository()
    repository.tags["v1"] = repository.commit(files)
    with pytest.MonkeyPatch.context() as patch:
        connect(patch, server, cache)
        call()
