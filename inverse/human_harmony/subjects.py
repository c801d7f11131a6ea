"""Photographs with their masks, from the CSV or from a folder of masks; what is dropped, and why."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...common.pictures import HALF, check_marked
from ...dataset.layout import check_name
from ...dataset.pairs import name_some
from .filters import Filters
from .photographs import PhotographFolder, size_of, without_suffix, wrong_with
from .problems import Problems
from .rle import RunMask, merge_runs, parse_runs
from .table import CLASS_COLUMN, BadRow, Place, Table

logger = logging.getLogger("diffharmony")

ONLY_MASK = "1"  # of a photograph with one mask
LARGEST_SIDE = 2**31 - 1
WHOLE = re.compile(r"([0-9]{1,10})(?:\.0*)?")


@dataclass(frozen=True)
class PixelMask:
    """A mask as pixels. values: [H, W] uint8, 255 foreground, 0 background."""

    values: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.values.shape[1], self.values.shape[0]

    @property
    def share(self) -> float:
        """Foreground's share of the image, 0..1."""
        return float((self.values > 0).mean())

    def pixels(self) -> np.ndarray:
        return self.values


@dataclass(frozen=True)
class Subject:
    """A photograph and one mask of it. name, mask_name: as in file names ("a0001", "1")."""

    name: str
    mask_name: str
    photograph: Path
    mask: RunMask | PixelMask


@dataclass
class Counts:
    """What was looked at so far. rows: of the CSV. in_keep_list: photographs that a keep list names. dropped: reason -> pairs of a
    photograph and a mask."""

    rows: int = 0
    photographs: int = 0
    in_keep_list: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def csv_subjects(path: Path, photographs: PhotographFolder, filters: Filters, problems: Problems, counts: Counts) -> Iterator[Subject]:
    """The photographs that the CSV has outlines for, in the order of their first rows; the mask is the union of all valid parts.

    Rows of one photograph need not be adjacent: the first pass notes where they are, the second reads them there.
    Raises: as Table; ValueError for problems, where that is to stop. Source: SPEC §6.
    """
    table = Table(path, with_classes=filters.by_class)
    places = _places(table, problems, counts)
    for name in tqdm(places, desc="Photographs", unit="photograph", dynamic_ncols=True):
        counts.photographs += 1
        counts.in_keep_list += filters.keeps(name)
        photograph = photographs.find(name)
        mask, classes = _union(name, list(table.rows(places[name])), problems, size_of(photograph))
        reason = filters.drops_name(name)
        if reason is None:
            reason = "no_valid_part" if mask is None else filters.drops_classes(classes) or filters.drops_share(mask.share)
        if reason is None and (wrong := wrong_with(photograph, mask.size)):
            reason, message = wrong
            problems.add(reason, message, line=places[name][0].line, name=name)
        if reason is None:
            yield Subject(name, ONLY_MASK, photograph, mask)
        else:
            counts.dropped[reason] += 1


def _places(table: Table, problems: Problems, counts: Counts) -> dict[str, list[Place]]:
    """Photograph -> its rows, by the first of them."""
    places: dict[str, list[Place]] = {}
    with tqdm(total=table.path.stat().st_size, desc=table.path.name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        for place, line in table.lines():
            counts.rows += 1
            bar.update(len(line))
            try:
                name = without_suffix(table.parse(line)["ImageId"])
                check_name(name, "ImageId")
                places.setdefault(name, []).append(place)
            except ValueError as error:
                problems.add(error.kind if isinstance(error, BadRow) else "image_id", str(error), line=place.line)
    return places


def _union(
    name: str, rows: list[tuple[Place, dict[str, str]]], problems: Problems, photograph: tuple[int, int] | None
) -> tuple[RunMask | None, set[int]]:
    """The union of a photograph's valid parts, None without any, and their classes. photograph: its width and height. Each part must have
    that size where a row says so, else the first valid part's: a row of another size is the damaged one."""
    parts: list[np.ndarray] = []
    size, whose, classes = None, "the photograph's", set()
    if photograph and any((_number(row["Width"]), _number(row["Height"])) == photograph for _, row in rows):
        size = photograph[::-1]
    for place, row in rows:
        kind = "sides"
        try:
            found = _side(row, "Height"), _side(row, "Width")
            if size not in (None, found):
                raise ValueError(f"Height, Width must be {whose} {size[0]}, {size[1]}, got {found[0]}, {found[1]}. Mend it.")
            kind = "class_id"
            class_id = _class(row)
            kind = "runs"
            parts.append(parse_runs(row["EncodedPixels"], *found))
        except ValueError as error:
            problems.add(kind, str(error), line=place.line, name=name)
            continue
        if size is None:
            size, whose = found, f"line {place.line}'s"
        if class_id is not None:
            classes.add(class_id)
    return RunMask(merge_runs(*parts), *size) if parts else None, classes


def _side(row: dict[str, str], column: str) -> int:
    value = _number(row[column])
    if value is None or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"{column} must be a whole number of at least 1, got {row[column][:40]!r}. Mend the row.")
    return value


def _number(text: str) -> int | None:
    """A whole number, also as tables write it that had gaps once: 96.0. None for anything else."""
    found = WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def _class(row: dict[str, str]) -> int | None:
    text = row.get(CLASS_COLUMN)
    if text is None:  # no rule asks for classes
        return None
    found = _number(text)
    if found is None:
        raise ValueError(f"ClassId must be a whole number, got {text[:40]!r}. Mend the row.")
    return found


def folder_subjects(masks: Path, photographs: PhotographFolder, filters: Filters, problems: Problems, counts: Counts) -> Iterator[Subject]:
    """The photographs of a folder with their masks, `<name>.png` or `<name>_<m>.png` each, by name; white (at least 128) is foreground.

    A mask that could be two photographs' is that of the longer name.
    Raises: ValueError for rules on classes, which masks do not have, or for problems, where that is to stop; FileNotFoundError for a
    missing folder.
    """
    if filters.by_class:
        raise ValueError("rules on classes must go with --csv, which has classes, got them with --masks. Leave them out.")
    found = _masks_of(masks, photographs, problems, counts)
    for name in tqdm(photographs.names(), desc="Photographs", unit="photograph", dynamic_ncols=True):
        counts.photographs += 1
        counts.in_keep_list += filters.keeps(name)
        try:
            check_name(name, "photograph")
            if not found.get(name):
                raise ValueError(f"photograph must have a mask {name}.png or {name}_<m>.png in {masks}, got none. Make one.")
        except ValueError as error:
            counts.dropped["mask_absent"] += 1
            problems.add("mask_absent", str(error), name=name)
            continue
        for mask_name, path in sorted(found[name].items()):
            reason = filters.drops_name(name)
            mask = None
            if reason is None:
                mask, wrong = _read_mask(path)
                wrong = wrong or wrong_with(photographs.find(name), mask.size)
                if wrong:
                    reason = wrong[0]
                    problems.add(*wrong, name=f"{name}_{mask_name}")
                else:
                    reason = filters.drops_share(mask.share)
            if reason is None:
                yield Subject(name, mask_name, photographs.find(name), mask)
            else:
                counts.dropped[reason] += 1


def _masks_of(masks: Path, photographs: PhotographFolder, problems: Problems, counts: Counts) -> dict[str, dict[str, Path]]:
    """Photograph -> mask name -> file."""
    if not masks.is_dir():
        raise FileNotFoundError(f"masks folder {masks.name!r} must exist, looked in {masks.parent.resolve()}. Check --masks.")
    found: dict[str, dict[str, Path]] = {}
    files = [path for path in sorted(masks.iterdir()) if not path.name.startswith(".")]
    pictures = [path for path in files if path.suffix.lower() == ".png"]
    if len(pictures) < len(files):
        others = sorted({*files} - {*pictures})
        logger.warning("not taken as masks, which are .png: %s", name_some(others))
    for path in pictures:
        name, mask_name = path.stem, ONLY_MASK
        if photographs.find(name) is None:
            name, _, mask_name = path.stem.rpartition("_")
        if photographs.find(name) is None or not mask_name:
            kind = "photograph_absent"
            message = f"{path.name} must be named as a photograph, or <photograph>_<m>.png, got no such photograph. Rename it."
        elif mask_name in found.setdefault(name, {}):
            kind, other = "mask_name", found[name][mask_name].name
            message = f"{path.name} must be the only mask {mask_name} of its photograph, got {other} too. Rename one."
        else:
            found[name][mask_name] = path
            continue
        counts.dropped[kind] += 1
        problems.add(kind, message, name=path.stem)
    return found


def _read_mask(path: Path) -> tuple[PixelMask | None, tuple[str, str] | None]:
    """A mask, or what is wrong with it: kind and message."""
    # imports PyTorch, which a table does without
    from ...common.images import read_mask

    kind = "mask_unreadable"
    try:
        mask = read_mask(path)
        kind = "mask_empty"
        check_marked(mask, path.name)
    except ValueError as error:
        return None, (kind, str(error))
    return PixelMask((np.asarray(mask) >= HALF).astype(np.uint8) * 255), None
