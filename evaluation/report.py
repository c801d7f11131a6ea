"""An evaluation's report: a folder of results.json, images.csv, tables.md and index.html, whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..common.files import check_folder
from .measuring import Evaluation
from .metrics import METRICS, Measurement, range_of
from .tables import evaluation_markdown

FILES = ("results.json", "images.csv", "tables.md", "index.html")


def check_out(out: Path) -> None:
    """Refuse a folder that a report cannot replace, before any work is done.

    Raises: ValueError for a file, one in a file, or a folder that holds anything but an earlier report; PermissionError where nothing
    can be written.
    """
    if out.exists():
        found = sorted(path.name for path in out.iterdir()) if out.is_dir() else [out.name]
        others = [name for name in found if name not in FILES or not out.is_dir()]
        if others:
            raise ValueError(f"out must be a new folder, an empty one or an earlier report's, got {out} with {others[0]!r}. Name another.")
    check_folder(out.resolve().parent, "folder of out")


def write_report(evaluation: Evaluation, result: dict[str, Any], out: Path, *, cases: int, progress: bool = True) -> None:
    """Write the report's files into `out`, which takes the place of an earlier report only when all are complete. Folders that it is in
    are made.

    results.json: evaluate()'s result and "images", one entry per image. images.csv: one row per image and method. tables.md: the
    means and comparisons. index.html: these, every image, and the `cases` worst and best of each figure as pictures.
    Raises: as check_out.
    """
    from .page import page

    check_out(out)
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        fresh, earlier = work / "new", work / "old"
        fresh.mkdir()  # unlike mkdtemp's, open to those whom the umask lets in
        rows = _rows(evaluation)
        document = {**result, "images": [{"name": name, **row} for name, row in zip(evaluation.names, rows)]}
        (fresh / "results.json").write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        _write_csv(fresh / "images.csv", evaluation)
        (fresh / "tables.md").write_text(evaluation_markdown(result), encoding="utf-8")
        (fresh / "index.html").write_text(page(evaluation, result, cases=cases, progress=progress), encoding="utf-8")
        if target.exists():
            target.rename(earlier)
        try:
            fresh.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    rows = []
    for index, pair in enumerate(evaluation.pairs):
        found = {method.label: method.outcomes[index] for method in evaluation.methods}
        rows.append({
            "subset": pair.subset,
            "foreground": next((one.foreground for one in found.values() if isinstance(one, Measurement)), None),
            "methods": {label: one.values() if isinstance(one, Measurement) else {"problem": one} for label, one in found.items()},
        })  # fmt: skip
    return rows


def _write_csv(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "subset", "method", "file", *METRICS, "foreground", "range", "problem"])
        for index, (name, pair) in enumerate(zip(evaluation.names, evaluation.pairs)):
            for method in evaluation.methods:
                outcome = method.outcomes[index]
                row = [name, pair.subset, method.label, method.file_name(index)]
                if isinstance(outcome, Measurement):
                    # repr keeps every digit
                    figures = ["" if value is None else repr(value) for value in outcome.values().values()]
                    table.writerow([*row, *figures, repr(outcome.foreground), range_of(outcome.foreground), ""])
                else:
                    table.writerow([*row, *[""] * len(METRICS), "", "", outcome])
