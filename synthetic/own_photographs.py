"""A person's own folder of photographs in the place of the installed ones, part of it held out for tests."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from PIL import Image

from ..common.pictures import IMAGE_SUFFIXES
from ..common.text import pluralize
from .photographs import MINIMUM_SIDE, Photograph

logger = logging.getLogger("diffharmony")


def own_photographs(folder: Path, *, held_out: float, test: bool) -> tuple[Photograph, ...]:
    """The folder's pictures, subfolders included, sorted by name: those held out for tests, or the others.

    held_out: share of the pictures that tests keep. Which these are depends on each picture's relative name alone, so adding pictures moves none
    across. Pictures that cannot be opened or are smaller than 256 px are left out, with a warning that names them. How many are taken,
    left out and on the other side is logged.
    Raises: FileNotFoundError for a missing folder; ValueError for a share outside [0, 1), or when no picture is left.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"photos folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check the path.")
    if not 0 <= held_out < 1:
        raise ValueError(f"held-out must lie in [0, 1), got {held_out}. Choose 0.1, say.")
    chosen, left_out = [], []
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    for path in pictures:
        name = path.relative_to(folder).as_posix()
        if is_held_out(name, held_out) != test:
            continue
        reason = _reason_to_leave_out(path)
        if reason:
            left_out.append(f"{name} ({reason})")
        else:
            chosen.append(Photograph(name, str(path)))
    if left_out:
        some = ", ".join(left_out[:10]) + (" and others" if len(left_out) > 10 else "")
        logger.warning("%s %s left out: %s", pluralize(len(left_out), "picture"), "is" if len(left_out) == 1 else "are", some)
    logger.info(
        "%s: %d of %s taken, %d too small or unreadable, %d %s (--held-out %s)",
        folder, len(chosen), pluralize(len(pictures), "picture"), len(left_out), len(pictures) - len(chosen) - len(left_out),
        "left for training" if test else "held back for tests", held_out,
    )  # fmt: skip
    if not chosen:
        part = "held out for tests" if test else "to train on"
        raise ValueError(f"{folder} must hold pictures {part}, of at least {MINIMUM_SIDE} px, got none. Add pictures, or change --held-out.")
    return tuple(chosen)


def is_held_out(name: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < share * 2**64


def _reason_to_leave_out(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            picture.load()
            return None if min(picture.size) >= MINIMUM_SIDE else f"{picture.size[0]} x {picture.size[1]} px"
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
