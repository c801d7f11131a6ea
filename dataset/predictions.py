"""Which file of a predictions folder belongs to which composite, and what was wrong with the others."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..common.pictures import IMAGE_SUFFIXES
from .pairs import Pair

# In the order that they are shown. "extra" are files of the folder that no line of the list asks for; the others are predictions
# that no figure includes.
PROBLEMS = ("missing", "unreadable", "wrong_size", "extra")


class PredictionFolder:
    """The image files under a folder, by composite.

    A prediction bears its composite's stem and lies in the folder, in `<subset>/` or in `<subset>/composite_images/` of it. Where
    several suffixes exist the first of IMAGE_SUFFIXES is taken; capitals in suffixes and the two spellings of accented letters
    (composed, decomposed) do not matter. Hidden files are left alone.
    Raises: FileNotFoundError when there is no such folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise FileNotFoundError(f"predictions folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check the path.")
        self.folder = folder
        # strings, since Paths of a large folder take longer than measuring a part of it
        self._files: dict[str, list[str]] = {}  # path without suffix -> the files of that name
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inner = os.path.relpath(place, folder).replace(os.sep, "/")
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                    self._files.setdefault(_spelled(stem, inner), []).append(name if inner == "." else f"{inner}/{name}")
        for paths in self._files.values():
            paths.sort(key=lambda path: (IMAGE_SUFFIXES.index(os.path.splitext(path)[1].lower()), path))

    def match(self, pairs: Sequence[Pair]) -> tuple[list[str | None], list[str]]:
        """For each pair its prediction's path relative to the folder, or None; and the files that belong to none, sorted.

        Raises: ValueError where one file would be two composites' prediction.
        """
        found = [self._find(pair) for pair in pairs]
        claimed = Counter((path, pair.composite) for path, pair in zip(found, pairs) if path is not None)
        twice = [path for path, count in Counter(path for path, _ in claimed).items() if count > 1]
        if twice:
            count = sum(path == twice[0] for path, _ in claimed)
            raise ValueError(
                f"{self.folder} must hold one prediction per composite, got {twice[0]} for {count} of the same name in several subsets. "
                "Put each subset's predictions into a folder of the subset's name."
            )
        taken = {path for path, _ in claimed}
        return found, sorted(path for paths in self._files.values() for path in paths if path not in taken)

    def _find(self, pair: Pair) -> str | None:
        stem = pair.composite.stem
        for inner in (f"{pair.subset}/composite_images", pair.subset, "."):
            paths = self._files.get(_spelled(stem, inner))
            if paths:
                return paths[0]
        return None


def names_of(pairs: Sequence[Pair]) -> list[str]:
    """What reports call each composite: its stem, with its subset before it where two composites share a stem."""
    places = {(pair.subset, pair.composite.stem) for pair in pairs}
    shared = {stem for stem, count in Counter(stem for _, stem in places).items() if count > 1}
    return [f"{pair.subset}/{pair.composite.stem}" if pair.composite.stem in shared else pair.composite.stem for pair in pairs]


def size_fits(found: tuple[int, int], real: tuple[int, int], size: int | None) -> bool:
    """Whether a prediction (width, height) can be measured at `size`: it has the real image's size, or its shape or a square's and is
    large enough."""
    if found == real:
        return True
    if size is None or min(found) < size:
        return False
    (width, height), (real_width, real_height) = found, real
    # a resize rounds each side to whole pixels
    same_shape = abs(width - height * real_width / real_height) <= 1 + real_width / real_height
    return width == height or same_shape


def _spelled(stem: str, inner: str) -> str:
    """A key for the files of this stem in the folder `inner` ("." for the folder itself)."""
    return unicodedata.normalize("NFC", f"{inner}/{stem}")
