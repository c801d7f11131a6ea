"""evaluate(): folders of harmonized images measured against an iHarmony4-layout data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..common.images import eight_bit, open_image
from ..train.data import read_list
from .metrics import RANGES, SIZE, Measurement, find_convention, measure, range_of, summarize

SUFFIXES = (".png", ".jpg")
PROBLEMS = ("missing", "unreadable", "wrong_size")


def evaluate(
    data: str | os.PathLike,
    list_file: str | os.PathLike = "IHD_test.txt",
    predictions: Sequence[str | os.PathLike] | str | os.PathLike = (),
    convention: str = "diffharmony",
    real_background: bool | None = None,
    *,
    size: int | None = SIZE,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure folders of harmonized images.

    data: folder in iHarmony4's layout. list_file: its list, by name in `data` or by path. predictions: one folder or
    several; a prediction bears its composite's stem and ends in .png or .jpg (.png is taken where both exist). It has its
    real image's size, or that shape at another size, or is a square, and is not smaller than what it is measured at.
    convention: a key of metrics.CONVENTIONS. real_background: lay the real image's background over the prediction first;
    None does as the convention does. size: the side that is measured at; None takes each image's own.
    Returns: JSON-able. "predictions" lists, per folder: "overall", "subsets" {name: ...} and "ranges" {"0-5", "5-15",
    "15-100": ...} (foreground share in per cent, at the measured size), each {"PSNR", "MSE", "fMSE", "bMSE", "count"};
    "missing", "unreadable" and "wrong_size", names of predictions that no figure includes; and "without_foreground",
    names whose mask is empty at the measured size: fMSE leaves them out. The first folder's "overall", "subsets" and
    "ranges" stand at the top as well.
    Raises: ValueError for an unknown convention, no folder, a folder none of whose predictions can be measured, or a
    damaged data set; FileNotFoundError for a missing folder, list or data file.
    Source: SPEC §7, §8; DESIGN.md "Contracts".
    """
    rules = find_convention(convention)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size must be a whole number of at least 1, or the images' own, got {size!r}. Published figures are measured at {SIZE}.")
    folders = [Path(predictions)] if isinstance(predictions, (str, os.PathLike)) else [Path(folder) for folder in predictions]
    if not folders:
        raise ValueError("predictions must be at least one folder, got none. Pass the folders to measure.")
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"predictions folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check the path.")
    root = Path(data)
    if (root / list_file).is_file():
        pairs = read_list(root, str(list_file))
    elif Path(list_file).is_file():
        pairs = read_list(root, str(Path(list_file).resolve()))
    else:
        raise FileNotFoundError(f"list file {str(list_file)!r} must exist, looked in {root.resolve()} and {Path.cwd()}. Check data and list.")
    if real_background is None:
        real_background = rules.real_background

    results = [_FolderResult(folder) for folder in folders]
    for result in results:
        if not any(result.find(pair.composite.stem) for pair in pairs):
            raise ValueError(
                f"{result.folder} must hold predictions named like the composites, {pairs[0].composite.stem}.png or .jpg for the "
                f"first, got none of the {len(pairs)}. Check folder and list."
            )
    for pair in tqdm(pairs, desc="Measuring", unit="image", disable=not progress):
        real, mask = _open(pair.real), _open(pair.mask)
        for result in results:
            prediction = result.read(pair.composite.stem, real.size, size)
            if prediction is not None:
                measurement = measure(prediction, real, mask, convention, size=size, real_background=real_background)
                result.add(pair.composite.stem, pair.subset, measurement)
    tables = [result.tables() for result in results]
    return {
        "command": "evaluate",
        "convention": convention,
        "real_background": real_background,
        "size": size,
        "data": str(data),
        "list": str(list_file),
        **{key: tables[0][key] for key in ("overall", "subsets", "ranges")},
        "predictions": tables,
    }


class _FolderResult:
    """The figures of one folder as they come in, and what could not be measured."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.measured: list[tuple[str, Measurement]] = []
        self.problems: dict[str, list[str]] = {name: [] for name in PROBLEMS}
        self.without_foreground: list[str] = []

    def find(self, stem: str) -> Path | None:
        return next((path for path in (self.folder / (stem + suffix) for suffix in SUFFIXES) if path.is_file()), None)

    def read(self, stem: str, real_size: tuple[int, int], size: int | None) -> Image.Image | None:
        """The prediction of that stem, or None after noting why there is none."""
        path = self.find(stem)
        if path is None:
            self.problems["missing"].append(stem)
            return None
        try:
            prediction = _open(path).convert("RGB")
        except (OSError, ValueError):
            self.problems["unreadable"].append(path.name)
            return None
        if not _size_fits(prediction.size, real_size, size):
            self.problems["wrong_size"].append(path.name)
            return None
        return prediction

    def add(self, stem: str, subset: str, measurement: Measurement) -> None:
        self.measured.append((subset, measurement))
        if measurement.foreground == 0:
            self.without_foreground.append(stem)

    def tables(self) -> dict[str, Any]:
        if not self.measured:
            counts = ", ".join(f"{len(names)} {kind.replace('_', ' ')} (first: {names[0]})" for kind, names in self.problems.items() if names)
            raise ValueError(f"{self.folder} must hold predictions that can be measured, got {counts}. Write them again.")
        subsets = sorted({subset for subset, _ in self.measured})
        every = [measurement for _, measurement in self.measured]
        return {
            "folder": str(self.folder),
            "overall": summarize(every),
            "subsets": {name: summarize(m for subset, m in self.measured if subset == name) for name in subsets},
            "ranges": {name: summarize(m for m in every if range_of(m.foreground) == name) for name in RANGES},
            **self.problems,
            "without_foreground": self.without_foreground,
        }


def _size_fits(found: tuple[int, int], real: tuple[int, int], size: int | None) -> bool:
    if found == real:
        return True
    if size is None or min(found) < size:
        return False
    (width, height), (real_width, real_height) = found, real
    # a resize rounds each side to whole pixels
    same_shape = abs(width - height * real_width / real_height) <= 1 + real_width / real_height
    return width == height or same_shape


def _open(path: Path) -> Image.Image:
    # as published code reads them: an EXIF orientation turns nothing
    return eight_bit(open_image(path, upright=False))
