"""A folder's photographs by name, found by one listing; what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from ...common.pictures import SIDEWAYS, UNREADABLE, orientation_of

SUFFIXES = (".jpg", ".jpeg", ".png")


class PhotographFolder:
    """The .jpg, .jpeg and .png files of a folder, by stem; subfolders and hidden files are left alone.

    Of several files of one stem the first kind of SUFFIXES is taken. Raises: FileNotFoundError for a missing folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise FileNotFoundError(f"photos folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check --photos.")
        self.folder = folder
        self._files: dict[str, str] = {}
        for name in os.listdir(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                other = self._files.get(stem)
                if other is None or _rank(name) < _rank(other):
                    self._files[stem] = name

    def __len__(self) -> int:
        return len(self._files)

    def names(self) -> list[str]:
        return sorted(self._files)

    def find(self, name: str) -> Path | None:
        file = self._files.get(name)
        return None if file is None else self.folder / file


def without_suffix(name: str) -> str:
    """A photograph's name without the suffix of a picture, should it have one."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def size_of(photograph: Path | None) -> tuple[int, int] | None:
    """Width and height in a photograph's header; None where it is absent or unreadable."""
    if photograph is None:
        return None
    try:
        with Image.open(photograph) as image:
            return image.size
    except UNREADABLE:
        return None


def wrong_with(photograph: Path | None, size: tuple[int, int]) -> tuple[str, str] | None:
    """Why a photograph cannot have a mask of `size` (width, height): kind and message, or None. Only its header is read."""
    if photograph is None:
        return "photograph_absent", f"photograph must exist in the folder as {', '.join(SUFFIXES)}, got none. Complete the folder."
    try:
        with Image.open(photograph) as image:
            found = image.size
            sideways = found != size and orientation_of(image) in SIDEWAYS
    except UNREADABLE as error:
        why = " ".join(str(error).split())
        return "photograph_unreadable", f"{photograph.name} must be a readable image, got an error ({why}). Copy it again."
    if found != size:
        turned = " (its EXIF orientation turns it: save it upright)" if sideways else ""
        return "photograph_size", (
            f"{photograph.name} must be as large as its mask, {size[0]} x {size[1]} px, got {found[0]} x {found[1]}{turned}. Take the "
            "photograph that the mask was made on."
        )
    return None


def _rank(name: str) -> tuple[int, str]:
    return SUFFIXES.index(os.path.splitext(name)[1].lower()), name
