"""Training commands as real processes, forked from one that has imported everything: python and torch take seconds to start.

    with ForkedRuns(folder) as runs:
        assert runs.start("train-vae", "tiny", …).wait() == 0
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

PATIENCE = 240  # seconds; machines that run tests may be busy


class Run:
    """One forked process, and what it printed."""

    def __init__(self, pid: int, output: Path):
        self.pid, self._output = pid, output

    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._gone()

    def wait(self) -> int | None:
        """The exit status, None when it was killed."""
        self._gone()
        status = self._output.with_suffix(".status")
        return int(status.read_text()) if status.is_file() else None

    def output(self) -> str:
        return self._output.read_text()

    def result(self) -> dict:
        """What --json printed, once it ended well."""
        assert self.wait() == 0, self.output()
        return json.loads([line for line in self.output().splitlines() if line.startswith("{")][-1])

    def _gone(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.alive():
            assert time.monotonic() < deadline, f"process {self.pid} does not end:\n{self.output()}"
            time.sleep(0.005)


class ForkedRuns:
    """Starts them. folder: for what they print."""

    def __init__(self, folder: Path):
        self._folder, self._count, self._started = folder, 0, []

    def __enter__(self) -> ForkedRuns:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIFFHARMONY_TRACEBACK": ""}
        self._server = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_) -> None:
        for run in self._started:
            run.kill()
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(self, *arguments, environment: dict[str, str] | None = None) -> Run:
        """`diffharmony <arguments>` in a process of its own."""
        return self.call("diffharmony.__main__:main", [str(argument) for argument in arguments], environment=environment)

    def call(self, function: str, *arguments, environment: dict[str, str] | None = None) -> Run:
        """`module:function` in a process of its own; what it returns is the exit status. arguments: JSON values."""
        self._count += 1
        output = self._folder / f"run-{self._count}.txt"
        job = {"function": function, "arguments": arguments, "environment": environment or {}, "output": str(output)}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        run = Run(int(self._server.stdout.readline()), output)
        self._started.append(run)
        return run

    def start_processes(
        self, count: int, *arguments, function: str = "diffharmony.__main__:main", environment: dict[str, str] | None = None
    ) -> list[Run]:
        """`torchrun --nproc_per_node <count> -m diffharmony <arguments>` without its start-up, and with accelerate told to use CPUs.
        environment: what else is set. function: what to call with the list of arguments in its place."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true", **(environment or {}),
        }  # fmt: skip
        words = [str(argument) for argument in arguments]
        return [self.call(function, words, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def _serve() -> None:
    import torch
    import torch.utils.tensorboard  # noqa: F401
    import transformers.integrations.deepspeed  # noqa: F401  diffusers' EMA asks it something
    import tyro  # noqa: F401
    from matplotlib.backends import backend_agg  # noqa: F401
    from PIL import Image

    from diffharmony import __main__  # noqa: F401
    from diffharmony.train import unet, vae  # noqa: F401

    Image.init()
    torch.set_num_threads(1)
    gc.freeze()  # what is here already is no garbage of a run's
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears ended children away
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run(job)
        print(pid, flush=True)


def _run(job: dict) -> None:
    output = Path(job["output"])
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(job["environment"])
    try:
        module, name = job["function"].split(":")
        status = getattr(importlib.import_module(module), name)(*job["arguments"]) or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 3
    sys.stdout.flush()
    output.with_suffix(".status").write_text(str(status))
    os._exit(status)


if __name__ == "__main__":
    _serve()
