"""What is wrong with the input, by line: counted, and written to a report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from ...common.files import written_whole

OnBad = Literal["stop", "skip"]
# Kinds of damaged rows; all other kinds are of photographs and masks.
ROW_KINDS = ("encoding", "columns", "image_id", "sides", "class_id", "runs")


class Problems:
    """Collects what is wrong, or stops at the first thing that is: rows and images each as told.

    source: the CSV file or the folder of masks, for messages.
    """

    def __init__(self, source: Path, on_bad_row: OnBad = "skip", on_bad_image: OnBad = "skip"):
        self.source, self._on_bad_row, self._on_bad_image = source, on_bad_row, on_bad_image
        self.counts: Counter[str] = Counter()
        self._found: list[dict[str, Any]] = []

    @property
    def rows(self) -> int:
        """How many rows are damaged."""
        return sum(self.counts[kind] for kind in ROW_KINDS)

    def add(self, kind: str, message: str, *, line: int | None = None, name: str = "") -> None:
        """line: of the CSV, counted from 1 with its header. Raises: ValueError when it is to stop."""
        option, what = ("--on-bad-row", self._on_bad_row) if kind in ROW_KINDS else ("--on-bad-image", self._on_bad_image)
        if what == "stop":
            place = f"line {line} of {self.source}" if line is not None else f"{name} in {self.source}"
            raise ValueError(f"{place}: {message} ({option} skip leaves it out, and reports it.)")
        self.counts[kind] += 1
        self._found.append({"line": line, "name": name, "kind": kind, "message": message})

    def all(self) -> list[dict[str, Any]]:
        """By line, then by name: {"line": int or null, "name", "kind", "message"}."""
        return sorted(self._found, key=lambda one: (one["line"] or 0, one["name"]))

    def write(self, path: Path) -> None:
        """All as JSON lines; whole or not at all."""
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in self.all())
