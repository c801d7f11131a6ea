"""evaluate(): folders of harmonized images measured against an iHarmony4-layout data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..dataset.pairs import Pair, distinct, read_list
from ..dataset.predictions import names_of
from .baselines import BASELINES
from .comparison import RESAMPLES
from .conventions import find_convention
from .measuring import Evaluation, Method
from .metrics import SIZE, to_side


def evaluate(
    data: str | os.PathLike,
    list_file: str | os.PathLike = "IHD_test.txt",
    predictions: Sequence[str | os.PathLike] | str | os.PathLike = (),
    convention: str = "diffharmony",
    real_background: bool | None = None,
    *,
    size: int | None = SIZE,
    baselines: Sequence[str] = (),
    workers: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    cases: int = 6,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure folders of harmonized images, and compare them.

    data: folder in iHarmony4's layout. list_file: its list, by name in `data` or by path. predictions: folders, see
    dataset.predictions. A prediction has its real image's size, or that shape at another size, or is a square, and is not
    smaller than what it is measured at. convention: a key of CONVENTIONS. real_background: lay the real image's background over
    the prediction first; None does as the convention does. size: the side that is measured at; None takes each image's own.
    baselines: keys of baselines.BASELINES, measured after the folders. workers: threads, None for one per available core; they
    change no figure. resamples, seed: of the bootstrap intervals; 0 resamples leave them out. out: folder to write a report to
    (see report.write_report), whole or not at all. cases: worst and best images that the report's page shows, of each figure.
    Returns: JSON-able. "predictions" lists, per folder and then per baseline: "label", "folder" or "baseline", "overall", "subsets"
    {name: ...} and "ranges" {"0-5", "5-15", "15-100": ...} (foreground share in per cent, at the measured size), each {"PSNR",
    "MSE", "fMSE", "bMSE", "count"}; "intervals" of the overall figures; "missing", "unreadable", "wrong_size" and "extra", names
    that no figure includes; "without_foreground" and "without_psnr", names that those figures leave out. "comparisons" holds the
    paired differences of every two (see comparison.compare); "same_images" whether all were measured on the same images;
    "named_again" the composites that several lines name, which count once. "overall", "subsets" and "ranges" of the first stand at the top
    too.
    Raises: ValueError for options that do not fit, no folder, one none of whose predictions can be measured, or a data set whose real
    images and masks cannot be read or differ in size, or whose masks have no foreground; FileNotFoundError for a missing folder, list or
    data file.
    Source: SPEC §7, §8; DESIGN.md "Contracts".
    """
    find_convention(convention)
    to_side(size)
    for name, value, least in (("workers", workers, 1), ("resamples", resamples, 0), ("cases", cases, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}. Leave it out for the default.")
    folders = [predictions] if isinstance(predictions, (str, os.PathLike)) else list(predictions)
    methods = _methods([Path(folder) for folder in folders], list(baselines))
    if out is not None:
        from .report import check_out

        check_out(Path(out))
    pairs, again = distinct(_read_pairs(Path(data), list_file))
    evaluation = Evaluation(str(data), str(list_file), convention, real_background, size, pairs, methods, workers or available_cores())
    for method in methods:
        method.find(pairs, evaluation.names)
    evaluation.measure(progress)
    result = evaluation.result(resamples, seed, progress)
    result["named_again"] = list(dict.fromkeys(names_of(again)))
    if out is not None:
        from .report import write_report

        write_report(evaluation, result, Path(out), cases=cases, progress=progress)
    return result


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _methods(folders: list[Path], baselines: list[str]) -> list[Method]:
    """A method per folder and baseline, each with a label of its own: the folder's name, else its path."""
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(f"baselines must be of {', '.join(BASELINES)}, got {name!r}. Pass some of these.")
    if not folders and not baselines:
        raise ValueError("predictions must be at least one folder, got none. Pass the folders to measure, or a baseline.")
    if len({folder.resolve() for folder in folders}) < len(folders) or len(set(baselines)) < len(baselines):
        given = ", ".join([*map(str, folders), *baselines])
        raise ValueError(f"predictions and baselines must be given once each, got {given}. Leave out what is double.")
    spellings: tuple[Callable[[Path], str], ...] = (lambda folder: folder.name, str, lambda folder: str(folder.resolve()))
    labels: list[str] = []
    for spelled in spellings:
        labels = [spelled(folder) for folder in folders]
        if len({*labels, *baselines}) == len(labels) + len(baselines) and all(labels):
            break
    measured = [Method(label, folder=folder) for label, folder in zip(labels, folders)]
    return measured + [Method(name, baseline=name) for name in baselines]


def _read_pairs(root: Path, list_file: str | os.PathLike) -> list[Pair]:
    if os.path.isfile(root / list_file):
        return read_list(root, str(list_file))
    if os.path.isfile(list_file):
        return read_list(root, str(Path(list_file).resolve()))
    raise FileNotFoundError(f"list file {str(list_file)!r} must exist, looked in {root.resolve()} and {Path.cwd()}. Check data and list.")
