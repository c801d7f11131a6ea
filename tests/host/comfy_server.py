"""A real ComfyUI on this machine's loopback, with this repository as its only extension: for the host tests, the demo, and you.

    .venv/bin/python -m diffharmony.tests.host.comfy_server --port 8188

COMFYUI_PATH (and COMFYUI_PYTHON, if it has an environment of its own) make it start your checkout instead of `.host/<version>`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffharmony.tests.host.fetch_host import SOURCES
from diffharmony.tests.made.clip import CLIP, MATTE, save_clip

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "assets" / "demo"
EXTENSION = "diffharmony"
NEWEST, *_, OLDEST = SOURCES  # .venv serves the newest
VERSIONS = tuple(os.environ.get("DIFFHARMONY_HOSTS", f"{NEWEST} {OLDEST}").split())  # that tests run in
PAINTED = "composite_with_mask"  # a picture's name
START_SECONDS = 180
STOP_SECONDS = 10


@dataclass(frozen=True)
class Host:
    """A ComfyUI source tree and the Python that has its requirements."""

    version: str
    path: Path
    python: Path

    def missing(self) -> str | None:
        """Why this host cannot start, or None."""
        for path in (self.path / "main.py", self.python):
            if not path.exists():
                return f"ComfyUI {self.version} must be set up, but {path} is not there. Run: make test HOSTS={self.version}"
        return None


def find_host(version: str = NEWEST) -> Host:
    """The host of one version; of COMFYUI_PATH where that is set, whatever its version."""
    own = os.environ.get("COMFYUI_PATH")
    if own:
        return Host("of COMFYUI_PATH", Path(own).expanduser(), Path(os.environ.get("COMFYUI_PYTHON", sys.executable)))
    environment = ".venv" if version == NEWEST else f".venv-{version}"
    return Host(version, REPOSITORY / ".host" / version, REPOSITORY / environment / "bin" / "python")


def save_painted(composite: Path, mask: Path, out: Path) -> None:
    """Write a composite as the mask editor does: what was painted, the mask's white, is transparent."""
    from PIL import Image, ImageOps

    painted = Image.open(composite).convert("RGB")
    painted.putalpha(ImageOps.invert(Image.open(mask).convert("L")))
    painted.save(out)


class ComfyServer:
    """A context manager: started and answering inside, stopped with all its children outside.

    base: the folder that becomes the host's models/, input/, output/ and user/; made where it does not exist.
    hub: where the Hugging Face Hub is, on this machine; None: nowhere. custom_nodes: folders of further custom nodes.
    Raises: RuntimeError with the end of the host's log when it does not come up.
    """

    def __init__(self, base: Path, host: Host | None = None, port: int = 0, hub: str | None = None, custom_nodes: Sequence[Path] = ()):
        self.base = Path(base)
        self.host = host or find_host()
        self.port = port or _free_port()
        self.log_path = self.base / "server.log"
        self._process: subprocess.Popen | None = None
        # HF_HUB_DISABLE_XET: another protocol, of a binary package
        self._hub = {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(self.base / "hub"), "HF_HUB_DISABLE_XET": "1"}
        for folder in ("models/vae", "models/diffusion_models", "custom_nodes", "input", "output", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        self._custom_nodes = {EXTENSION: REPOSITORY, **{path.name: path for path in custom_nodes}}
        for name, path in self._custom_nodes.items():
            link = self.base / "custom_nodes" / name
            if not link.exists():
                link.symlink_to(path, target_is_directory=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def import_seconds(self) -> float:
        """How long the host says that importing this extension took. Raises: RuntimeError when it says that the import failed."""
        line = re.search(rf"^.*?([\d.]+) seconds(.*): .*{EXTENSION}$", self.log, re.MULTILINE)
        if line is None or "FAILED" in line[2]:
            raise RuntimeError(f"the extension must be imported by the host, got {line and line[0]!r}. The end of its log:\n{self.log[-3000:]}")
        return float(line[1])

    def add_model(self, folder: str, path: Path, name: str | None = None) -> str:
        """Link a weights file into models/<folder>, under another name if one is given; returns the name that a loader node shows."""
        path = Path(path).resolve(strict=True)
        target = self.base / "models" / folder / (name or path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(path)
        return target.name

    def add_input(self, path: Path, name: str | None = None) -> str:
        """Copy a picture into input/, under another name if one is given; returns the name that Load Image shows."""
        name = name or Path(path).name
        shutil.copyfile(path, self.base / "input" / name)
        return name

    def add_demo(self) -> None:
        """Make the demo's pictures available, under the names that the workflows have. The tiny models are there by themselves."""
        for picture in sorted(DEMO.glob("*.[pj][np]g")):
            self.add_input(picture)
        folder = self.base / "input"
        save_painted(*(folder / f"{name}.png" for name in ("composite", "mask", PAINTED)))
        save_clip(folder / "pasted.png", folder / CLIP)
        save_clip(folder / "pasted_mask.png", folder / MATTE)

    def __enter__(self) -> ComfyServer:
        missing = self.host.missing()
        if missing:
            raise RuntimeError(missing)
        with open(self.log_path, "w") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.host.path,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self._hub, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the host and everything that it started. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
                process.wait(STOP_SECONDS)
                return
            except ProcessLookupError:
                process.wait()
                return
            except subprocess.TimeoutExpired:
                continue

    def _command(self) -> list[str]:
        options = f"--listen 127.0.0.1 --port {self.port} --database-url sqlite:///:memory:"
        options += " --disable-api-nodes --disable-auto-launch --dont-print-server"
        options += f" --disable-all-custom-nodes --whitelist-custom-nodes {' '.join(self._custom_nodes)}"
        if not _has_gpu():
            options += " --cpu"
        # a folder's name may hold spaces
        return [str(self.host.python), "main.py", *options.split(), "--base-directory", str(self.base.resolve())]

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI must start, but it ended with code {self._process.returncode}. The end of its log:\n{self.log[-3000:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise RuntimeError(f"ComfyUI must answer within {START_SECONDS} s, got nothing. The end of its log:\n{self.log[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _die_with_parent() -> None:
    # For a parent that is killed and cannot stop the host itself. 1 is PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--version", choices=SOURCES, default=NEWEST)
    arguments = parser.parse_args()
    with ComfyServer(REPOSITORY / ".cache" / "comfyui", find_host(arguments.version), arguments.port) as server:
        server.add_demo()
        print(f"ComfyUI {server.host.version}: {server.url}   (Workflow > Browse Templates > diffharmony; Ctrl-C stops it)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
