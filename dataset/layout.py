"""Where files lie in iHarmony4's layout (SPEC §7), and how they get there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..common.files import written_whole

COMPOSITES, CANDIDATES, MASKS, REALS = "composite_images", "cand_composite_images", "masks", "real_images"
TRAIN_LIST, TEST_LIST = "IHD_train.txt", "IHD_test.txt"
SUFFIXES = (".png", ".jpg")
LONGEST_NAME = 200  # bytes; file systems take 255, with numbers and suffix
NEVER = re.compile(r"[/\\\0:\ud800-\udfff]")  # the last are bytes of a name that is no text: lists could not hold it
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, with any suffix


def composite_name(image: str, mask: str, k: int | str, suffix: str = ".png") -> str:
    """`<a>_<m>_<k>` and the suffix: composite `k` of image `a` and its mask `m`.

    Raises: ValueError where a name could not be taken apart again, or would leave its folder. Source: SPEC §7.
    """
    check_name(image, "image name")
    for what, part in (("mask name", mask), ("number", str(k))):
        check_name(part, what)
        if "_" in part:
            raise ValueError(f"{what} must have no '_' in it, which parts the names in {COMPOSITES}, got {part!r}. Rename it.")
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix must be one of {', '.join(SUFFIXES)}, got {suffix!r}. Choose one of these.")
    return f"{image}_{mask}_{k}{suffix}"


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder, hides nothing, and is a file's on every system, Windows with its devices too."""
    plain = name.splitlines() == [name] and not name.startswith(".") and not NEVER.search(name)  # lists: a name a line
    return plain and not DEVICE.fullmatch(name) and len(name.encode()) <= LONGEST_NAME


def check_name(name: str, what: str) -> None:
    """Refuse a name that is empty, hidden, too long, a device's on Windows, or leads out of its folder. Raises: ValueError."""
    if not is_plain(name):
        raise ValueError(
            f"{what} must be a plain file name in UTF-8 without / \\ : and not begin with a dot, of at most {LONGEST_NAME} bytes, and no device of "
            f"Windows, got {name[:80]!r}. Rename it."
        )


def place(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Put a file at `target`, whole or not at all: as a hard link where the disk allows it, else as a copy. The folder of
    `target` is made; a file that is there is replaced."""
    source, target = Path(source), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(source, temporary)


def write_list(path: Path, names: Iterable[str]) -> None:
    """A list file: root-relative composite paths, one a line. Whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in names)
