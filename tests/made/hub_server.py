"""A Hub of our own on this machine's loopback: what huggingface_hub's client asks, over repositories in memory.

Reads (information, listing, references, files with their tags and ranges) and writes (repository, LFS batch, commit, tag).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

TOKEN = "hf_ours"  # the only one that may write, and read what is private


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        parent = self.branches.get("main", "")
        listing = [parent, *(f"{name} {hashlib.sha1(content).hexdigest()}" for name, content in sorted(files.items()))]
        oid = hashlib.sha1("\n".join(listing).encode()).hexdigest()
        self.commits[oid], self.branches["main"] = files, oid
        return oid

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision) or self.tags.get(revision)


class HubServer:
    """Serves a folder of repositories `<owner>/<name>/<files>`, and what is pushed, until the block ends.

    `endpoint` goes into HF_ENDPOINT. `downloads` are the files that were sent, `requests` all that was asked. Where `cut` is
    set, the next file breaks off after so many bytes; the client then asks for the rest.
    """

    def __init__(self, root: Path | None = None):
        self.repositories: dict[str, Repository] = {}
        self.downloads: list[str] = []
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.cut: int | None = None
        self._uploads: dict[str, bytes] = {}
        for folder in root.glob("*/*") if root else ():
            self.add(folder.relative_to(root).as_posix(), folder)

    def add(self, name: str, folder: Path, private: bool = False) -> Repository:
        """Put a folder's files into a repository as a commit."""
        repository = self.repositories.setdefault(name, Repository(private=private))
        repository.commit({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        return repository

    def __enter__(self) -> HubServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        async def serve():
            app = web.Application(client_max_size=1 << 28, middlewares=[self._noted])
            name = "/{owner}/{name}"
            app.add_routes([
                web.get("/api/whoami-v2", self._whoami),
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._valid),
                web.get("/api/models" + name, self._info),
                web.get("/api/models" + name + "/revision/{revision}", self._info),
                web.get("/api/models" + name + "/tree/{revision}", self._tree),
                web.get("/api/models" + name + "/refs", self._refs),
                web.post("/api/models" + name + "/preupload/{revision}", self._preupload),
                web.post("/api/models" + name + "/commit/{revision}", self._commit),
                web.post("/api/models" + name + "/tag/{revision}", self._tag),
                web.post(name + ".git/info/lfs/objects/batch", self._lfs_batch),
                web.put("/uploads/{oid}", self._upload),
                web.get(name + "/resolve/{revision}/{path:.*}", self._file),
            ])  # fmt: skip
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.endpoint = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
            self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._ended.wait()
            await runner.cleanup()

        asyncio.run(serve())

    @web.middleware
    async def _noted(self, request: web.Request, handler):
        self.requests.append(f"{request.method} {request.path}")
        if request.method == "POST" and not _is_ours(request) and not request.path.endswith("validate-yaml"):
            return _json({"error": "Invalid username or password."}, 401)
        return await handler(request)

    async def _whoami(self, request):
        if not _is_ours(request):
            return _json({"error": "Invalid credentials"}, 401)
        return _json({"type": "user", "name": "acme", "orgs": [], "auth": {"type": "access_token"}})

    async def _valid(self, request):
        return _json({"errors": [], "warnings": []})

    async def _create(self, request):
        asked = await request.json()
        name = f"{asked.get('organization') or 'acme'}/{asked['name']}"
        if name in self.repositories:
            return _json({"error": "You already created this model repo", "url": f"{self.endpoint}/{name}"}, 409)
        self.repositories[name] = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.repositories[name].commit({})
        return _json({"url": f"{self.endpoint}/{name}"})

    def _found(self, request) -> tuple[Repository, str, dict[str, bytes]]:
        """Raises: the Hub's answer for a repository or revision that is not there, or not this client's to see."""
        name = "/".join((request.match_info["owner"], request.match_info["name"]))
        repository = self.repositories.get(name)
        if repository is None or repository.private and not _is_ours(request):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        oid = repository.find(request.match_info.get("revision", "main"))
        if oid is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return repository, oid, repository.commits[oid]

    async def _info(self, request):
        repository, oid, files = self._found(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(files.items())]
        return _json({"_id": "0", "id": name, "modelId": name, "sha": oid, "private": repository.private, "tags": [], "downloads": 0,
                            "likes": 0, "siblings": siblings})  # fmt: skip

    async def _tree(self, request):
        _, _, files = self._found(request)
        entries = sorted(files.items())
        return _json([{"type": "file", "path": path, "size": len(content), "oid": _blob(content)} for path, content in entries])

    async def _refs(self, request):
        repository, _, _ = self._found(request)

        def listed(kind: str, names: dict[str, str]) -> list[dict]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in names.items()]

        return _json({"branches": listed("heads", repository.branches), "converts": [], "tags": listed("tags", repository.tags)})

    async def _preupload(self, request):
        _, _, files = self._found(request)
        asked = (await request.json())["files"]
        return _json({"files": [{
            "path": one["path"], "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".jpg")) else "regular", "shouldIgnore": False,
            "oid": _blob(files[one["path"]]) if one["path"] in files else None,
        } for one in asked]})  # fmt: skip

    async def _lfs_batch(self, request):
        objects = (await request.json())["objects"]
        return _json({"transfer": "basic", "objects": [
            # a link that carries its own permission, as the Hub's do
            {**one, "authenticated": True, "actions": {"upload": {"href": f"{self.endpoint}/uploads/{one['oid']}"}}} for one in objects
        ]})  # fmt: skip

    async def _upload(self, request):
        content = await request.read()
        if hashlib.sha256(content).hexdigest() != request.match_info["oid"]:
            return _json({"error": "sha256 mismatch"}, 400)
        self._uploads[request.match_info["oid"]] = content
        return web.Response()

    async def _commit(self, request):
        repository, _, files = self._found(request)
        files = dict(files)
        for line in (await request.text()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self._uploads[value["oid"]]
            elif entry["key"] != "header":
                return _json({"error": f"{entry['key']} is nothing that a push should do"}, 400)
        oid = repository.commit(files)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        return _json({"commitUrl": f"{self.endpoint}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None})

    async def _tag(self, request):
        repository, oid, _ = self._found(request)
        tag = (await request.json())["tag"]
        if tag in repository.tags:
            return _json({"error": "Tag reference exists already"}, 409)
        repository.tags[tag] = oid
        return web.Response()

    async def _file(self, request):
        _, oid, files = self._found(request)
        path = request.match_info["path"]
        if path not in files:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        content = files[path]
        headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(content))})
        asked = request.headers.get("Range", "")
        begin = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        if asked:
            self.ranges.append(f"{path} {asked}")
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        else:
            self.downloads.append(f"{request.match_info['owner']}/{request.match_info['name']}/{path}")
        response = web.StreamResponse(status=206 if asked else 200, headers={**headers, "Content-Length": str(len(content) - begin)})
        await response.prepare(request)
        if self.cut is not None:
            await response.write(content[begin : self.cut])
            self.cut = None
            request.transport.close()
        else:
            await response.write(content[begin:])
        return response


def _json(value, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _is_ours(request: web.Request) -> bool:
    return request.headers.get("Authorization") == f"Bearer {TOKEN}"


def _blob(content: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def connect(monkeypatch, hub: HubServer, cache: Path, *, offline: bool = False) -> None:
    """Make this process's huggingface_hub, which reads its environment once, a client of `hub` with a cache of its own and no token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol, of a binary package
    monkeypatch.delenv("HF_TOKEN", raising=False)
