"""The CSV's rows: columns by name, a row a line."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

REQUIRED = ("ImageId", "EncodedPixels", "Height", "Width")
CLASS_COLUMN = "ClassId"


class Place(NamedTuple):
    """Where a row is: its line, counted from 1 with the header, and its first byte in the file."""

    line: int
    offset: int


class BadRow(ValueError):
    """A line that is no whole row: `kind` of damage, the message says what."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Table:
    """A CSV file whose columns are looked up by name: any order, others too; UTF-8 with or without a byte order mark, any line ends.

    A row is one line, so that a quote which nothing closes swallows no others. with_classes: require and read the column ClassId too.
    Raises: FileNotFoundError for a missing file; ValueError for a header that is not UTF-8 or lacks a column.
    """

    def __init__(self, path: Path, *, with_classes: bool = False):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"table {path.name!r} must exist, looked in {path.parent.resolve()}. Check --csv.")
        self.path = path
        csv.field_size_limit(sys.maxsize)
        with path.open("rb") as file:
            header = file.readline()
        try:
            names = [name.strip() for name in next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")]), [])]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"first line of {path} must be a CSV header in UTF-8, got another ({error}). Export it again.") from error
        required = (*REQUIRED, CLASS_COLUMN) if with_classes else REQUIRED
        bad = [name for name in required if names.count(name) != 1]
        if bad:
            raise ValueError(f"header of {path} must have one column {', '.join(bad)}, got {', '.join(names)[:200]!r}. Mend the header.")
        self.columns = {name: names.index(name) for name in required}
        self._width = len(names)

    def lines(self) -> Iterator[tuple[Place, bytes]]:
        """All lines below the header, but empty ones."""
        with self.path.open("rb") as file:
            offset = len(file.readline())
            for number, line in enumerate(file, start=2):
                if line.strip():
                    yield Place(number, offset), line
                offset += len(line)

    def rows(self, places: Iterable[Place]) -> Iterator[tuple[Place, dict[str, str]]]:
        """The rows at these places, which are whole."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place.offset)
                yield place, self.parse(file.readline())

    def parse(self, line: bytes) -> dict[str, str]:
        """The fields of `columns` by name, without the spaces around them. Raises: BadRow."""
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            found = f"{line[error.start : error.start + 8]!r} at byte {error.start}"
            raise BadRow("encoding", f"a row must be UTF-8, got {found}. Mend the row.") from None
        try:
            fields = next(csv.reader([text], strict=True))
        except csv.Error as error:
            raise BadRow("columns", f"a row must be CSV, got {text[:40]!r} ({error}). Mend the row.") from None
        if len(fields) != self._width:
            raise BadRow("columns", f"a row must have the header's {self._width} columns, got {len(fields)}. Mend the row.")
        return {name: fields[column].strip() for name, column in self.columns.items()}
