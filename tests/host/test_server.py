"""The harness itself: nothing that it starts may outlive it, or be reachable from elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffharmony.tests.host.comfy_server import ComfyServer, Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes and sockets up in /proc")


def processes(base: Path) -> list[int]:
    """Hosts that run on this base folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"main.py" in arguments and str(base).encode() in arguments:
            found.append(int(entry.parent.name))
    return found


def wait_until(condition, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(condition())


def test_a_host_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no host today')")
    with pytest.raises(RuntimeError, match="(?s)ended with code 1.*no host today"):
        with ComfyServer(tmp_path / "base", Host("none", tmp_path, Path(sys.executable))):
            pass


def test_a_host_that_is_not_set_up_says_what_to_run(tmp_path):
    with pytest.raises(RuntimeError, match="must be set up, but .*main.py is not there. Run: make test HOSTS=none"):
        with ComfyServer(tmp_path / "base", Host("none", tmp_path, Path(sys.executable))):
            pass


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_host_ends_with_its_parent(host, tmp_path, sent):
    script = (
        "from pathlib import Path; from diffharmony.tests.host.comfy_server import *\n"
        f"with ComfyServer(Path({str(tmp_path)!r}), find_host({host.version!r})): pass"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: processes(tmp_path))
        os.kill(parent.pid, sent)
        parent.wait(60)
        assert wait_until(lambda: not processes(tmp_path))
    finally:
        parent.kill()
        parent.wait()


def test_the_server_listens_on_loopback_only(server):
    loopback = "0100007F"
    port = f":{server.port:04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(port)] == [loopback + port]
    six = [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines() if line.split()[3] == "0A"]
    assert not [address for address in six if address.endswith(port)]
