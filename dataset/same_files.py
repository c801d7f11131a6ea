"""Which files are the same, byte for byte; files placed once."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..common.run_folder import digest
from .layout import place

TAIL = 4096  # bytes at a file's end, in which two pictures of one size nearly always differ


def same_file(first: Path, second: Path) -> bool:
    """Whether both are there, and one file (as a hard link is) or of the same bytes."""
    return first.is_file() and second.is_file() and (first.samefile(second) or filecmp.cmp(first, second, shallow=False))


def place_once(source: Path, target: Path) -> None:
    """`place` a file where nothing is; the same file there already is left. Raises: ValueError where another file is."""
    if not target.is_file():
        place(source, target)
    elif not same_file(source, target):
        raise ValueError(f"{target} must be a copy of {source}, got another file. Choose another --out.")


def same_files(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """For each name whose file another one equals byte for byte: the name that stands for all of these, their first by name.

    Only files that agree in size and in their last bytes are read whole. Raises: OSError for a file that cannot be read.
    """
    found: dict[str, str] = {}
    for by_size in _alike(files, lambda path: path.stat().st_size):
        for by_tail in _alike(by_size, _tail):
            for members in _alike(by_tail, digest):
                names = [name for name, _ in members]
                found |= dict.fromkeys(names, min(names))
    return found


def _alike(files: Iterable[tuple[str, Path]], of) -> list[list[tuple[str, Path]]]:
    """The files in groups of two and more for which `of` is the same."""
    groups = defaultdict(list)
    for name, path in files:
        groups[of(path)].append((name, path))
    return [members for members in groups.values() if len(members) > 1]


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read()
