"""What candidates are made of: the distinct pairs of a real image and one of its masks (SPEC §4's N1)."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..common.pictures import IMAGE_SUFFIXES
from ..dataset.layout import MASKS, REALS, SUFFIXES
from ..dataset.pairs import DirectoryIndex, existing, find_pairs, name_some

logger = logging.getLogger("diffharmony")


@dataclass(frozen=True)
class Source:
    """One real image and one mask of it. subset: the folder of both, relative to the data set's, with / (empty: the data set's own).
    image, mask: their names ("a0001", "1"). real_file, mask_file: the files, which may not exist."""

    subset: str
    image: str
    mask: str
    real_file: Path
    mask_file: Path

    def at(self, folder: str, name: str) -> str:
        """The path of a file of the subset, relative to the data set, with /."""
        return "/".join(part for part in (self.subset, folder, name) if part)

    @property
    def real(self) -> str:
        return self.at(REALS, self.real_file.name)

    @property
    def mask_path(self) -> str:
        return self.at(MASKS, self.mask_file.name)


def listed_sources(root: Path, list_file: str, folders: DirectoryIndex, limit: int | None = None) -> tuple[list[Source], int]:
    """The distinct pairs that a list's composites are of, in the order of their first ones, and how many composites it names of
    them. limit: only the first so many pairs.

    Raises: FileNotFoundError for a missing list; ValueError for an empty one, a line that is no composite path, or one that leads
    out of the data set.
    """
    found: dict[tuple[str, str, str], Source] = {}
    composites: dict[tuple[str, str], tuple[str, str, str]] = {}
    for pair in find_pairs(root, list_file, folders):
        image, mask, _ = pair.composite.stem.rsplit("_", 2)
        folder = os.path.relpath(os.path.dirname(os.path.dirname(pair.real)), root)
        subset = "" if folder == os.curdir else Path(folder).as_posix()
        if subset.split("/")[0] == os.pardir:
            raise ValueError(f"{list_file} must name composites in {root}, got {pair.composite}, which lies outside. Mend the list.")
        composites[subset, pair.composite.stem] = subset, image, mask
        found.setdefault((subset, image, mask), Source(subset, image, mask, pair.real, pair.mask))
    kept = dict(itertools.islice(found.items(), limit))
    return list(kept.values()), sum(key in kept for key in composites.values())


def folder_sources(root: Path, folders: DirectoryIndex) -> list[Source]:
    """A pair for every mask of the data set's folder and of each folder in it, `masks/<a>_<m>.png` (or another picture's suffix, in any
    case), with its real image; in the order of their names. A folder in it that a command of ours made is a data set of its own, and left
    out. Files beside the masks that are not taken are named in a warning.

    Raises: FileNotFoundError when there is no such folder, or no mask; ValueError for a mask without its number.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data set {root.name!r} must exist, looked in {root.parent.resolve()}. Check --data.")
    subsets = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".") and not _made(path))]
    found: dict[tuple[str, str, str], Source] = {}
    for subset in subsets:
        names = {name for name in folders.names(str(subset / MASKS)) if not name.startswith(".")}
        stems = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in IMAGE_SUFFIXES}
        for stem in sorted(stems):
            # of one name with several suffixes, the one that lists stand for
            source = _source(root, subset, existing(str(subset / MASKS / stem), SUFFIXES[0], folders), folders)
            found[source.subset, source.image, source.mask] = source
            names.discard(source.mask_file.name)
        if names:
            logger.warning("not taken as masks: %s", name_some([subset / MASKS / name for name in sorted(names)]))
    if not found:
        looked = f"looked in {root.resolve()}"
        raise FileNotFoundError(f"masks must lie in <subset>/{MASKS} beside <subset>/{REALS}, {looked}. Check --data, or pass --list.")
    return list(found.values())


def _made(folder: Path) -> bool:
    return any(folder.glob("*.settings.json"))


def _source(root: Path, subset: Path, mask_file: Path, folders: DirectoryIndex) -> Source:
    image, line, mask = mask_file.stem.rpartition("_")
    if not (image and line and mask):
        raise ValueError(f"mask must be named <image>_<mask>.png, got {mask_file}. Rename it, <image>_1.png say.")
    real = existing(str(subset / REALS / image), SUFFIXES[0], folders)
    return Source("" if subset == root else subset.name, image, mask, real, mask_file)


def list_path(root: Path, list_file: str) -> str:
    """A list by its name in the data set's folder, else by its path, as `find_pairs` takes it."""
    return list_file if os.path.isfile(root / list_file) or not os.path.isfile(list_file) else str(Path(list_file).resolve())


def only_named(names: Iterable[str], sources: Sequence[Source]) -> list[tuple[Source, list[int]]]:
    """Those of the pairs, in their order, that composites of these names are of, and the numbers named. A name may have its folders before
    it.

    Raises: ValueError for a name that is no composite's, or whose pair there is not.
    """
    by_name: dict[tuple[str, str], list[Source]] = {}
    for source in sources:
        by_name.setdefault((source.image, source.mask), []).append(source)
    found: dict[Source, list[int]] = {}
    for name in names:
        path = PurePosixPath(name)
        image, mask, k = (path.stem.rsplit("_", 2) + ["", ""])[:3]
        if not (image and mask and k.isascii() and k.isdigit() and int(k)):
            raise ValueError(f"name must be <image>_<mask>_<k>, k from 1, got {name!r}. Copy it from candidates.jsonl.")
        subset = None if len(path.parts) < 2 else "/".join(path.parts[:-2])
        matching = [one for one in by_name.get((image, mask), []) if subset in (None, one.subset)]
        if not matching:
            raise ValueError(f"name must be of a real image and mask of the data set, got {name!r}. Check --only, --data and --list.")
        for source in matching:
            found[source] = sorted({*found.get(source, []), int(k)})
    return [(source, found[source]) for source in sources if source in found]
