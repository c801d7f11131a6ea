"""A folder that a command fills: one run at a time, one sort of settings, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .files import read_json, written_whole

SETTINGS = "settings.json"


def claim(folder: Path, settings: Mapping[str, Any], name: str = SETTINGS) -> None:
    """Write down in `<folder>/<name>` what the folder is made with, or refuse one that was begun with other settings.

    settings: JSON values by name. In several processes the first one claims, for all, before any writes (`on_main`).
    Raises: ValueError naming the first setting that differs.
    """
    settings = json.loads(json.dumps(settings))
    file = folder / name
    if file.is_file():
        found = read_json(file)
        for key, value in settings.items():
            if found.get(key) != value:
                before = found.get(key)
                raise ValueError(f"{key} must be {before!r} to go on in {folder}, got {value!r}. Choose another --out, or delete the folder.")
        return
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """Of a checkpoint file's bytes, or of all files of a folder."""
    sha = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()[:16]


# What `written_whole` calls a file that it has not finished.
UNFINISHED = re.compile(r"\..+-[a-z0-9_]{8}(\.[a-z]+)?")
_LOCKS: dict[Path, FileLock] = {}


def hold(out: Path, option: str = "run.out") -> None:
    """Hold a run's folder, which this process may do already. The system lets go of it when this process dies."""
    lock = _LOCKS.get(out.resolve()) or FileLock(out / ".lock")
    try:
        if not lock.is_locked:
            lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"{option} must be used by one run at a time, got {out}, where another is under way. Choose another folder.") from None
    _LOCKS[out.resolve()] = lock


def let_go(out: Path) -> None:
    """Let go of a folder that this process holds, if it does."""
    lock = _LOCKS.pop(out.resolve(), None)
    if lock is not None:
        lock.release()


def clear_unfinished(out: Path, folders: Iterable[str] = ("", "state", "samples", "last"), begins: str = ".") -> None:
    """Remove what a run that was killed in the middle of writing left behind, from these folders in `out`. `out` must be held."""
    for folder in folders:
        for path in (out / folder).glob(f"{begins}*"):
            if UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)
