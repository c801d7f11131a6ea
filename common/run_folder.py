"""A folder that a command fills: one run at a time, one sort of settings, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .files import read_json, written_whole

SETTINGS = "settings.json"
LONGEST_SHOWN = 200  # characters of a setting in an error


def claim(folder: Path, settings: Mapping[str, Any], name: str = SETTINGS, option: str = "--out") -> None:
    """Write down in `<folder>/<name>` what the folder is made with, or refuse one that was begun with other settings.

    settings: JSON values by name. In several processes the first one claims, for all, before any writes (`on_main`).
    Raises: as `check_same`.
    """
    settings = json.loads(json.dumps(settings))
    file = folder / name
    if file.is_file():
        return check_same(read_json(file), settings, folder, option)
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, option: str, free: Container[str] = ()) -> None:
    """Raises: ValueError naming the first setting that is not what `folder` was begun with, but for those that are `free` to change.

    before, now: JSON values by name. A place has several spellings, which are the same: relative, absolute, through a link.
    """
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if name not in free and not _same(old, new):
            raise ValueError(
                f"{name} must be {_short(old)} to go on in {folder}, got {_short(new)}. Choose another {option}, or delete the folder to "
                "begin anew."
            )


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, str) and isinstance(new, str):
        return old == new or Path(old).resolve() == Path(new).resolve()
    return old == new


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


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
