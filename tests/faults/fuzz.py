"""Hostile and damaged inputs for every loader, by the thousand.

    python -m diffharmony.tests.faults.fuzz --inputs 20000                all loaders, in shares
    python -m diffharmony.tests.faults.fuzz --only UNet:12 --traceback    one input again

Each input is loaded or refused: by an error of ours, in one line, that says what must be, what was got, what to do. No code of a file
runs, nothing is written outside of the folder given, memory stays below twice the input plus 100 MB, and 5 s suffice.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import tyro

from diffharmony.common.assets import ROOT
from diffharmony.tests.faults.targets import TARGETS, Call, Target, make_good

OURS = (ValueError, OSError)
ONE_LINE = re.compile(r"[^\n]*\bmust\b[^\n]*")
SECONDS, MEGABYTES, TIMES = 5.0, 100, 2
ADDRESSES = 24 << 30  # of a process: what asks for more gets MemoryError, as where there is none
CHUNK = 125  # inputs of one process
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "ctypes.dlopen", "socket.connect", "socket.bind")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "os.chown", "os.utime")


@dataclass(frozen=True)
class Fuzz:
    inputs: int = 20_000
    """Over all loaders."""
    seed: int = 0
    only: str | None = None
    """A loader's name, or name:number for one input."""
    traceback: bool = False
    """With one input: show where its error comes from."""
    json: bool = False


class Watch:
    """What a call does to the system besides reading, by the interpreter's own audit events."""

    def __init__(self):
        self.folder: Path | None = None
        self.found: list[str] = []
        self.network = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN and not (self.network and event.startswith("socket.")):
            self.found.append(f"{event} {arguments[:1]}")
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes)) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not self._allowed(os.fsdecode(path)):
                self.found.append(f"open {path!r} for writing")
        elif event in CHANGES:
            if arguments[-1] != -1 and event in ("os.remove", "os.rmdir") and isinstance(arguments[-1], int):
                return  # in a folder that is open
            places = arguments[1:2] if event in ("os.symlink", "os.link") else arguments[:2] if event == "os.rename" else arguments[:1]
            for place in places:
                if isinstance(place, (str, bytes, os.PathLike)) and not self._allowed(os.fsdecode(place)):
                    self.found.append(f"{event} {place!r}")

    def _allowed(self, path: str) -> bool:
        folder, self.folder = self.folder, None  # resolving asks the system too
        try:
            out = os.path.join(os.path.realpath(folder), "out")
            inside = os.path.realpath(os.path.dirname(path)).startswith(out) or os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) == out
            # a folder is opened so for a file without a name
            return inside or os.path.isdir(path) or path in ("/dev/null", "nul") or path.startswith("/dev/shm/")
        finally:
            self.folder = folder


def _memory(peak: bool) -> int:
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", file.read())[1])


def _size_of(folder: Path) -> int:
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, files in os.walk(folder) for name in files)


def wrong_with(target: Target, call: Call, own: Path, watch: Watch) -> tuple[str, str | None]:
    """("loaded" | "refused", None), or the kind of failure and what was seen."""
    size = _size_of(own)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _memory(peak=False), time.process_time()
    watch.found, watch.folder, watch.network = [], own, target.name == "Hub answers"
    outcome, error = "loaded", None
    try:
        call()
    except Exception as caught:
        outcome, error = "refused", caught
    finally:
        watch.folder = None
    taken, grown = time.process_time() - began, _memory(peak=True) - before
    if watch.found or (own.parent / "canary").exists():
        shutil.rmtree(own.parent / "canary", ignore_errors=True)
        return "ran or wrote", f"{watch.found[:3]}"
    if taken > SECONDS:
        return "slow", f"{taken:.1f} s, then {error!r}"
    if not target.compressed and grown > TIMES * size + MEGABYTES * 1e6:
        return "memory", f"{grown / 1e6:.0f} MB for {size / 1e6:.2f} MB, then {str(error)[:200]}"
    if error is None:
        return outcome, None
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if not isinstance(error, OURS) or not last.startswith(str(ROOT)) or "/.venv" in last:
        where = next(f"{frame.filename.removeprefix(str(ROOT) + '/')}:{frame.lineno}" for frame in reversed(traceback.extract_tb(error.__traceback__))
                     if frame.filename.startswith(str(ROOT)) and "/.venv" not in frame.filename)  # fmt: skip
        return "raw", f"{type(error).__name__} at {where}: {str(error)[:160]!r}"
    if not ONE_LINE.fullmatch(str(error)) or not str(error).rstrip().endswith((".", ")")):
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "style", f"{where.filename.removeprefix(str(ROOT) + '/')}:{where.lineno} {str(error)[:400]!r}"
    return outcome, None


def run_one(target: Target, number: int, seed: int, good: Path, work: Path, watch: Watch) -> tuple[str, str | None, BaseException | None]:
    own = work / "own"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    call = target.prepare(good, own, Random(f"{seed}/{target.name}/{number}"))
    kept: list[BaseException] = []

    def noted() -> None:
        try:
            call()
        except BaseException as error:
            kept.append(error)
            raise

    return *wrong_with(target, noted, own, watch), kept[0] if kept else None


def _chunk(target: Target, numbers: range, seed: int, good: Path, pipe) -> None:
    """In a process of its own: every input's result, as it comes."""
    sys.dont_write_bytecode = True
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    watch = Watch()
    with tempfile.TemporaryDirectory() as work:
        for number in numbers:
            pipe.send(run_one(target, number, seed, good, Path(work), watch)[:2])
    os._exit(0)


def fuzz(targets: dict[str, int], seed: int, good: Path, told=lambda text: None) -> dict[str, dict]:
    """targets: name -> how many inputs. Returns: name -> how many of each outcome, and what failed, number -> kind and what was seen."""
    by_name = {target.name: target for target in TARGETS}
    report = {name: {"inputs": 0, "outcomes": Counter(), "failed": {}} for name in targets}
    for first in range(0, max(targets.values()), CHUNK):  # all loaders in turn: a run that is stopped has seen something of each
        for name, count in targets.items():
            number, last, one = first, min(first + CHUNK, count), report[name]
            while number < last:
                done, fate = _run_chunk(by_name[name], range(number, last), seed, good)
                for outcome, seen in done + ([fate] if fate else []):
                    one["outcomes"][outcome] += 1
                    if seen is not None:
                        one["failed"][number] = f"{outcome}: {seen}"
                        told(f"{name}:{number} {outcome}: {seen}")
                    number += 1
            one["inputs"] = number if number > first else one["inputs"]
        told(f"{sum(one['inputs'] for one in report.values())} inputs, {sum(len(one['failed']) for one in report.values())} failures")
    return {name: {**one, "outcomes": dict(one["outcomes"])} for name, one in report.items()}


def _run_chunk(target: Target, numbers: range, seed: int, good: Path) -> tuple[list[tuple[str, str | None]], tuple[str, str] | None]:
    """The results of these inputs in a process of their own, and where it hung or died before the last, that of the next."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_chunk, args=(target, numbers, seed, good, theirs))
    child.start()
    theirs.close()
    done, fate = [], "died"
    try:
        while ours.poll(20 * SECONDS):  # the processor may be another's in the meantime
            done.append(ours.recv())
        os.kill(child.pid, signal.SIGKILL)
        fate = "hung"
    except EOFError:
        pass
    child.join()
    return done, None if len(done) == len(numbers) else (fate, f"exit {child.exitcode}")


def shares(inputs: int) -> dict[str, int]:
    whole = sum(target.share for target in TARGETS)
    return {target.name: max(1, -(-round(inputs * target.share) // round(whole))) for target in TARGETS}


def warm_up(good: Path) -> None:
    """Import what loading takes before processes fork, so that an input's memory and time are its own."""
    from diffharmony.diffusion.convert import convert_models, find_sources

    with tempfile.TemporaryDirectory() as out:
        convert_models(find_sources(good / "archive"), out)
        watch, work = Watch(), Path(out) / "work"
        for target in TARGETS:
            if target.name != "Hub answers":  # its server's thread would not outlive the fork
                for number in range(3):
                    run_one(target, -1 - number, 0, good, work, watch)


def main(config: Fuzz) -> int:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder)
        make_good(good)
        name, _, number = (config.only or "").partition(":")
        if number:
            target = next(target for target in TARGETS if target.name == name)
            *found, error = run_one(target, int(number), config.seed, good, good / "work", Watch())
            if config.traceback and error is not None:
                traceback.print_exception(error)
            print(found, error)
            return 0
        warm_up(good)
        counts = {name: config.inputs} if name else shares(config.inputs)
        report = fuzz(counts, config.seed, good, None if config.json else lambda text: print(text, flush=True))
    failures = [(name, number, seen) for name, one in report.items() for number, seen in one["failed"].items()]
    if config.json:
        print(json.dumps(report))
    else:
        for name, one in report.items():
            print(f"{name}: {one['inputs']} inputs, {one['outcomes']}")
        for kind, count in Counter(re.sub(r"0x\w+|\d\d+|/tmp/\S+", "#", f"{name}: {seen}")[:150] for name, _, seen in failures).most_common(60):
            print(f"{count:6} {kind}")
        print(f"{sum(one['inputs'] for one in report.values())} inputs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Fuzz, description=__doc__)))
