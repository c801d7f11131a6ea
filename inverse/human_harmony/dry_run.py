"""What there is to build from, and --dry-run, which does without PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...common.files import is_safetensors
from ...common.run_folder import digest
from .filters import Filters
from .photographs import PhotographFolder
from .problems import OnBad, Problems
from .split import TEST_SHARE, split_photographs
from .subjects import Counts, Subject, csv_subjects, folder_subjects

SHOWN = 5  # damaged rows and images that a plan shows


@dataclass(frozen=True)
class InputSpec:
    """What photographs and masks there are, and which of them are taken. Either `csv` or `masks` is None. limit: of pairs."""

    photographs: Path
    csv: Path | None
    masks: Path | None
    filters: Filters = Filters()
    on_bad_row: OnBad = "skip"
    on_bad_image: OnBad = "skip"
    limit: int | None = None

    def scan(self) -> tuple[Iterator[Subject], Problems, Counts]:
        """The pairs, one after another; and what is found wrong, and counted, on the way.

        Raises: FileNotFoundError, ValueError for folders and files that are missing or of another kind.
        """
        counts, problems = Counts(), Problems(self.csv or self.masks, self.on_bad_row, self.on_bad_image)
        subjects = csv_subjects if self.csv is not None else folder_subjects
        found = subjects(self.csv or self.masks, PhotographFolder(self.photographs), self.filters, problems, counts)
        return itertools.islice(found, self.limit), problems, counts

    def described(self) -> dict[str, Any]:
        """What a folder of results depends on, as JSON values. The masks of a folder are compared one by one instead."""
        filters = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(self.filters).items()}
        return {"csv": None if self.csv is None else digest(self.csv), "filters": filters}


def plan_data_set(
    wanted: InputSpec, candidates: int, *, models: dict[str, Path], seed: int = 0, test_share: float = TEST_SHARE, report: Path | None = None
) -> dict[str, Any]:
    """What a run would do: the whole input read and checked, nothing written but `report`, where one is named.

    models: kind of checkpoint (harmony_vae, unet, classifier) -> path; they are told by their headers, and not loaded.
    Returns: JSON-able counts. Raises: FileNotFoundError, ValueError as build_data_set.
    """
    check_report(report)
    for kind, path in models.items():
        _check_header(path, kind)
    subjects, problems, seen = wanted.scan()
    pairs, names = 0, set()
    for subject in subjects:
        pairs += 1
        names.add(subject.name)
    if report is not None:
        problems.write(report)
    train, test = split_photographs(names, seed=seed, test_share=test_share)
    return {
        **counts_of(wanted, seen, problems, names), "pairs": pairs, "to_make": pairs * candidates, "train": len(train), "test": len(test),
        "first_damage": problems.all()[:SHOWN],
    }  # fmt: skip


def counts_of(wanted: InputSpec, seen: Counts, problems: Problems, names: Collection[str]) -> dict[str, Any]:
    """What reports say of the input. names: of the photographs that are taken."""
    keep = wanted.filters.keep
    return {
        "photographs": seen.photographs,
        "rows": seen.rows,
        "damaged_rows": problems.rows,
        "damage": dict(problems.counts),
        "dropped": dict(seen.dropped),
        "kept": len(names),
        # known once all photographs were looked at
        "keep_list_absent": None if keep is None or wanted.limit is not None else len(keep) - seen.in_keep_list,
    }


def check_report(report: Path | None) -> None:
    """Raises: FileNotFoundError for a report in a folder that does not exist."""
    if report is not None and not report.parent.is_dir():
        raise FileNotFoundError(f"folder of {report.name!r} must exist, looked in {report.parent.resolve()}. Create it first.")


def nothing_left(photographs: int, dropped: dict[str, int]) -> str:
    """The error of a run that keeps no photograph."""
    return f"at least one photograph with a mask must be left, got none of {photographs} ({in_words(dropped)}). Relax filters."


def in_words(counts: dict[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing else"


def _check_header(path: Path, kind: str) -> None:
    """What a .safetensors file says of itself; of other files and folders, that they exist."""
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path.name!r} must exist, looked in {path.parent.resolve()}. Check the path.")
    if not is_safetensors(path):
        return
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a whole safetensors file, got one that cannot be read ({error}). Copy it again.") from error
    found = metadata.get("diffharmony.kind", kind)
    if found != kind:
        raise ValueError(f"{path} must be of kind {kind!r}, got {found!r}. Pass another file.")
    direction = metadata.get("diffharmony.direction", "invert")
    if kind != "classifier" and direction != "invert":
        raise ValueError(f"{path} must be of direction 'invert', got {direction!r}. Pass an inverse model.")
