"""A Hub of our own: the endpoints that huggingface_hub calls, over a folder of repositories `<owner>/<name>/<files>`."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves `root` until the block ends. `endpoint` goes into HF_ENDPOINT; `downloads` are the files that were sent."""

    def __init__(self, root: Path):
        self.root = root
        self.downloads: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self, body=True)

            def do_HEAD(self):
                hub.answer(self, body=False)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        folder = self.root.joinpath(*parts[:2])
        if len(parts) < 2 or not folder.is_dir():
            return self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, body)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if api:
            value = [self._entry(path, folder) for path in files] if "tree" in parts else self._info(files, folder, "/".join(parts[:2]))
            return self._send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)
        path = folder.joinpath(*parts[4:])  # owner, name, "resolve", revision, the file's own path
        if path not in files:
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        if body:
            self.downloads.append(path.relative_to(self.root).as_posix())
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self._send(request, 200, content, headers, body)

    def _entry(self, path: Path, folder: Path) -> dict:
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _info(self, files: list[Path], folder: Path, name: str) -> dict:
        return {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files]}  # fmt: skip

    def _send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)
