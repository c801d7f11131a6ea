"""Lists of composites in iHarmony4's layout, and the files that they stand for (SPEC §7)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ..common.files import parse_json
from ..common.pictures import IMAGE_SUFFIXES


class BadImage(ValueError):
    """An image of the data set that cannot be used: `path` names it, the message says why."""

    def __init__(self, path: Path, message: str):
        super().__init__(message)
        self.path = path


SHOWN = 5  # missing files that an error names
BAR_DELAY = 2.0  # seconds


@dataclass(frozen=True)
class Pair:
    """Paths of one composite, its mask and its real image."""

    composite: Path
    mask: Path
    real: Path
    subset: str


class DirectoryIndex:
    """Which files there are, by one listing of each folder: a look-up per file takes minutes on a network drive."""

    def __init__(self):
        self._names: dict[str, set[str]] = {}
        self._by_stem: dict[str, dict[str, list[str]]] = {}

    def names(self, folder: str) -> set[str]:
        """What lies in a folder; nothing where there is none."""
        if folder not in self._names:
            self._names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return self._names[folder]

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        # systems that fold case or accents list another spelling than they open
        return name in self.names(folder) or os.path.isfile(path)

    def alike(self, path: str) -> list[str]:
        """The names in its folder that differ from a path's in suffix or case alone, sorted. path: with or without suffix."""
        folder, name = os.path.split(path)
        if folder not in self._by_stem:
            stems = self._by_stem[folder] = {}
            for one in sorted(self.names(folder)):
                stems.setdefault(os.path.splitext(one)[0].casefold(), []).append(one)
        stems = self._by_stem[folder]
        return stems.get(name.casefold()) or stems.get(os.path.splitext(name)[0].casefold(), [])


def read_list(root: Path, list_file: str) -> list[Pair]:
    """The pairs that a list file names, in its order.

    Raises: FileNotFoundError when the root or list is missing, or a listed mask or real image is; ValueError for an empty list
    or a line that is no composite path. Source: SPEC §7.
    """
    folders = DirectoryIndex()
    pairs = find_pairs(root, list_file, folders)
    for pair in pairs:
        for path in (pair.real, pair.mask):
            if not folders.has(str(path)):
                raise FileNotFoundError(
                    f"{path.name} must exist, looked in {path.parent}{in_place(path, folders)}. Complete the data set or mend its list."
                )
    return pairs


def find_pairs(root: Path, list_file: str, folders: DirectoryIndex) -> list[Pair]:
    """As read_list, whether the images exist or not."""
    path = root / list_file
    if not os.path.isfile(path):
        raise FileNotFoundError(f"list file {list_file!r} must exist, looked in {root.resolve()}. Check data.roots and data.list_file.")
    lines = _lines(path)
    pairs = []
    for number, line in enumerate(tqdm(lines, desc=path.name, unit="line", delay=BAR_DELAY, leave=False, dynamic_ncols=True), start=1):
        if line.strip():
            pairs.append(_pair(root, _composite_name(line.strip(), path, number), path, number, folders))
    if not pairs:
        raise ValueError(f"{path} must name at least one composite, got none. Check that it is the right list.")
    return pairs


def distinct(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs of each composite's first line, and those of lines that name a composite again; both in the list's order."""
    first: dict[str, Pair] = {}
    again = []
    for pair in pairs:
        place = os.path.normpath(pair.composite)
        if place in first:
            again.append(pair)
        else:
            first[place] = pair
    return list(first.values()), again


def missing_files(pairs: Iterable[Pair], folders: DirectoryIndex) -> list[Path]:
    """The composites, masks and real images that do not exist, each once, in the list's order."""
    missing: dict[Path, None] = {}
    for pair in tqdm(pairs, desc="files", unit="pair", delay=BAR_DELAY, leave=False, dynamic_ncols=True):
        for path in (pair.composite, pair.mask, pair.real):
            if not folders.has(str(path)):
                missing[path] = None
    return list(missing)


def name_some(paths: list[Path], folders: DirectoryIndex | None = None) -> str:
    """The first few paths, and how many more there are. folders: with what lies in the place of paths that are missing."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(f"{path}{'' if folders is None else in_place(path, folders)}" for path in paths[:SHOWN]) + more


def in_place(path: Path, folders: DirectoryIndex) -> str:
    """What lies in a missing file's place, for errors: ` (there is a1.heic)`, or nothing."""
    alike = folders.alike(str(path))
    return f" (there is {', '.join(alike[:SHOWN])})" if alike else ""


def _lines(path: Path) -> list[str]:
    try:
        # not splitlines, which would cut names at characters such as U+2028; editors on Windows put a mark before the first line
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, got something else ({error.reason}). Save it as UTF-8.") from error


def _composite_name(line: str, path: Path, number: int) -> str:
    name: object = line
    if path.suffix.lower() == ".jsonl":
        try:
            name = parse_json(line)["file_name"]
        except (ValueError, KeyError, TypeError):
            name = None
    if not isinstance(name, str):
        raise ValueError(f"line {number} of {path} must be a JSON object with file_name, got {line[:80]!r}. Mend the line.")
    return name if "/" in name else name.replace("\\", "/")


def _pair(root: Path, name: str, path: Path, number: int, folders: DirectoryIndex) -> Pair:
    # strings, since a hundred thousand Paths to look at take seconds
    folder, file = os.path.split(name)
    subset, kind = os.path.split(folder)
    stem, suffix = os.path.splitext(file)
    parts = stem.rsplit("_", 2)
    if len(parts) != 3 or kind != "composite_images":
        raise ValueError(
            f"line {number} of {path} must be <subset>/composite_images/<a>_<m>_<k>.<suffix>, got {name!r}. Mend the line."
        )
    image, mask, _ = parts
    place = os.path.join(root, subset)
    real = existing(os.path.join(place, "real_images", image), suffix, folders)
    found_mask = existing(os.path.join(place, "masks", f"{image}_{mask}"), ".png", folders)
    return Pair(root / name, found_mask, real, os.path.basename(subset) or root.name)


def existing(stem: str, suffix: str, folders: DirectoryIndex) -> Path:
    """The file of this path without suffix: of `suffix`, else of the other suffix that iHarmony4-like sets use, else of any picture's, in
    any case, where there is one."""
    suffixes = dict.fromkeys((suffix, ".jpg", ".png"))
    found = next((one for one in suffixes if folders.has(stem + one)), None)
    if found is None:
        own = os.path.basename(stem)
        others = [one.removeprefix(own) for one in folders.alike(stem) if one.startswith(own)]
        ranked = sorted((IMAGE_SUFFIXES.index(one.lower()), one) for one in others if one.lower() in IMAGE_SUFFIXES)
        found = ranked[0][1] if ranked else suffix
    return Path(stem + found)
