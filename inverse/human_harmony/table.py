"""The CSV's records by line, and which records belong to one photograph, in memory that does not grow with the number of rows."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

REQUIRED = ("ImageId", "EncodedPixels", "Height", "Width")
CLASS_COLUMN = "ClassId"
LONGEST = 16 * 2**20  # bytes of one record
MOST_LINES = 20  # of one record with quoted line ends


class Record(NamedTuple):
    """One record. line: its first, counted from 1 with the header. fields: None where `problem` says what is wrong."""

    line: int
    offset: int
    size: int
    fields: list[str] | None
    problem: tuple[str, str] | None = None


class Place(NamedTuple):
    """Adjacent records of one photograph: the first one's line, and their bytes in the file."""

    line: int
    offset: int
    size: int


class Table:
    """A CSV file whose columns are looked up by name: any order, others too; UTF-8 with or without a byte order mark, any line ends.

    with_classes: require the column ClassId too.
    Raises: FileNotFoundError for a missing file; ValueError for a header that is not UTF-8 or lacks a column.
    """

    def __init__(self, path: Path, *, with_classes: bool = False):
        if not path.is_file():
            raise FileNotFoundError(f"table {path.name!r} must exist, looked in {path.parent.resolve()}. Check --csv.")
        self.path = path
        csv.field_size_limit(max(LONGEST, csv.field_size_limit()))
        with path.open("rb") as file:
            header = file.readline(LONGEST)
        try:
            names = [name.strip() for name in next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")]), [])]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"first line of {path} must be a CSV header in UTF-8, got another ({error}). Export it again.") from error
        required = (*REQUIRED, CLASS_COLUMN) if with_classes else REQUIRED
        bad = [name for name in required if names.count(name) != 1]
        if bad:
            raise ValueError(f"header of {path} must have one column {', '.join(bad)}, got {', '.join(names)[:200]!r}. Mend the header.")
        self.columns = {name: names.index(name) for name in (*REQUIRED, CLASS_COLUMN) if name in names}
        self._width, self._start = len(names), len(header)

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def records(self, places: Iterable[Place] | None = None) -> Iterator[Record]:
        """The records of these places, or of the whole file; empty lines are none."""
        with self.path.open("rb") as file:
            for line, offset, size in [Place(2, self._start, self.bytes - self._start)] if places is None else places:
                file.seek(offset)
                end = offset + size
                while offset < end and (first := file.readline(LONGEST + 1)):
                    lines, size, fields, problem = self._parsed(file, first)
                    if fields is not None or problem is not None:
                        yield Record(line, offset, size, fields, problem)
                    line, offset = line + lines, offset + size

    def value(self, record: Record, name: str) -> str:
        """One field of a whole record, without the spaces around it."""
        return record.fields[self.columns[name]].strip()

    def _parsed(self, file: BinaryIO, first: bytes) -> tuple[int, int, list[str] | None, tuple[str, str] | None]:
        """Lines and bytes that the record takes, its fields, its problem; the file stands behind it."""
        if len(first) > LONGEST:
            size, more = len(first), first
            while more and not more.endswith(b"\n"):
                more = file.readline(LONGEST)
                size += len(more)
            return 1, size, None, ("columns", f"a row must be at most {LONGEST} bytes long, got {size}. Mend the row.")
        if first.count(b'"') % 2:
            after = file.tell()
            lines, whole = 1, first
            while lines < MOST_LINES and len(whole) < LONGEST and (further := file.readline(LONGEST)):
                lines, whole = lines + 1, whole + further
                if further.count(b'"') % 2:
                    fields, problem = self._fields(whole)
                    if problem is None and not any("\n" in fields[column] for column in self.columns.values()):
                        return lines, len(whole), fields, None
                    break
            # a quote that nothing closes must not swallow the rows behind it
            file.seek(after)
        return 1, len(first), *self._fields(first)

    def _fields(self, raw: bytes) -> tuple[list[str] | None, tuple[str, str] | None]:
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            found = f"{raw[error.start : error.start + 8]!r} at byte {error.start}"
            return None, ("encoding", f"a row must be UTF-8, got {found}. Mend the row.")
        if not text.strip():
            return None, None
        try:
            fields = next(csv.reader([text], strict=True))
        except csv.Error as error:
            return None, ("columns", f"a row must be CSV, got {text[:40]!r} ({error}). Mend the row.")
        if len(fields) != self._width:
            return None, ("columns", f"a row must have the header's {self._width} columns, got {len(fields)}. Mend the row.")
        return fields, None


class Index:
    """Which places of the table each photograph's records lie at, kept on disk: its records need not be adjacent."""

    def __init__(self):
        self._database = scratch_database()
        self._database.execute("CREATE TABLE places (name TEXT, line INTEGER, offset INTEGER, size INTEGER)")
        self._name: str | None = None
        self._place = Place(0, 0, 0)

    def add(self, name: str, record: Record) -> None:
        """The next record of the file, of photograph `name`."""
        if name == self._name and record.offset == self._place.offset + self._place.size:
            self._place = self._place._replace(size=self._place.size + record.size)
            return
        self._flush()
        self._name, self._place = name, Place(record.line, record.offset, record.size)

    def count(self) -> int:
        """How many photographs there are."""
        self._flush()
        return self._database.execute("SELECT COUNT(DISTINCT name) FROM places").fetchone()[0]

    def photographs(self) -> Iterator[tuple[str, list[Place]]]:
        """Each photograph and its places, by the first line that names it."""
        self._flush()
        self._database.execute("CREATE INDEX IF NOT EXISTS by_name ON places (name, line)")
        name, places = None, []
        # CROSS JOIN: in this order, by the index
        found = self._database.execute(
            "SELECT places.* FROM (SELECT name, MIN(line) AS first FROM places GROUP BY name ORDER BY first) AS firsts "
            "CROSS JOIN places USING (name) ORDER BY first, line"
        )
        for next_name, *place in found:
            if next_name != name and name is not None:
                yield name, places
                places = []
            name = next_name
            places.append(Place(*place))
        if name is not None:
            yield name, places

    def _flush(self) -> None:
        if self._name is not None:
            self._database.execute("INSERT INTO places VALUES (?, ?, ?, ?)", (self._name, *self._place))
            self._name = None


def read_index(
    table: Table, name_of: Callable[[str], str], on_problem: Callable[[str, str, Record], None], on_offset: Callable[[int], None]
) -> tuple[Index, int]:
    """One pass over the table. Returns: the index of its whole records, and how many records there are, damaged ones included.

    name_of: a photograph's name of an ImageId; raises ValueError for what is none. on_problem: called with kind, message and record for a
    damaged record. on_offset: called with the place in the file that is reached.
    """
    index, count = Index(), 0
    for record in table.records():
        count += 1
        on_offset(record.offset + record.size)
        if record.problem is not None:
            on_problem(*record.problem, record)
            continue
        try:
            index.add(name_of(table.value(record, "ImageId")), record)
        except ValueError as error:
            on_problem("image_id", str(error), record)
    return index, count


def scratch_database() -> sqlite3.Connection:
    """A database of one's own in a temporary file, which the system removes; in memory only as far as its cache goes."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", "cache_size=-8192"):
        database.execute(f"PRAGMA {setting}")
    return database
