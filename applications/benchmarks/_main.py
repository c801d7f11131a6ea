"""What every benchmark does as a command: options, the table, the JSON file."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import time
from collections.abc import Callable
from typing import Any


def run_benchmark(options: type, run: Callable[[Any], Any], table: Callable[[Any], str], description: str) -> None:
    """Read `options` (a dataclass with `out`) from the command line, run, print the table, and write what `run` gave to `out`."""
    import tyro

    from ...common.files import written_whole

    config = tyro.cli(options, description=description)
    results = run(config)
    print(table(results))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(config.out) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"Wrote {config.out}")


def cpu_seconds() -> float | None:
    """CPU time that this process and the processes that it started and that still run have taken; None where the system does not tell.

    Unlike the clock on the wall it does not count what else the machine does.
    """
    try:
        clock_of = ctypes.CDLL(None).clock_getcpuclockid  # POSIX, but not everywhere
    except (AttributeError, TypeError):
        return None
    total, clock = time.process_time(), ctypes.c_int()
    for child in multiprocessing.active_children():
        if clock_of(child.pid, ctypes.byref(clock)) == 0:
            total += time.clock_gettime(clock.value)
    return total
