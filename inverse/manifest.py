"""The manifest of a folder of candidates, and the journals that it is written from; both survive a kill at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..common.files import written_whole

MANIFEST = "candidates.jsonl"
NEEDED = {"file_name": str, "mask": str, "k": int}
PATHS = ("file_name", "real", "mask")
Needed = Mapping[str, Any]  # name -> type, or union of types, of what a record must have


class Entry(NamedTuple):
    """One line of the manifest or of a journal: what it is sorted by, and the file and the place in it where it stands. It is copied as it
    was written: other commands add to it."""

    file_name: str
    mask: str
    k: int
    path: Path
    offset: int


class Ledger:
    """What is known of the candidates in a folder: the manifest `<out>/<name>` and, while candidates are made, a journal per process.

    A process adds each record after its file. The manifest is written whole at the end, and the journals go. Of two records of one
    file the manifest's counts.
    """

    def __init__(self, out: Path, name: str = MANIFEST):
        self.manifest = out / name
        self.settings_name = f"{self.manifest.stem}.settings.json"
        self._journals = out / f".{self.manifest.stem}.journal"
        self._masks: dict[str, str] = {}  # each once, for all its candidates

    def begin(self, there: Callable[[str], bool]) -> dict[str, Entry]:
        """What is known of the files that are `there`, by file name; journals of killed runs become one. By the first process, before
        any adds.

        Raises: ValueError for a manifest that cannot be read.
        """
        join_journals(self._journals, NEEDED, lambda record: there(record["file_name"]))
        known = self._read_journals()
        if self.manifest.is_file():
            for offset, record in read_records(self.manifest, NEEDED):
                if there(record["file_name"]):
                    known[record["file_name"]] = self._entry(self.manifest, offset, record)
        return known

    def journal(self, process: int) -> Journal:
        """This process's own."""
        return Journal(self._journals / f"process-{process:05d}.jsonl")

    def finish(self, known: dict[str, Entry], order: Iterable[str]) -> list[Entry]:
        """Write the manifest of `known` and all that the journals say: by `order` of the masks' paths and by k, then what is of other
        masks. By the first process, after all have closed theirs. Returns: its entries, whose old places are gone."""
        entries = self._read_journals() | known
        places = {mask: place for place, mask in enumerate(order)}
        last = len(places)
        ordered = sorted(entries.values(), key=lambda entry: (places.get(entry.mask, last), entry.k if entry.mask in places else 0))
        with written_whole(self.manifest) as temporary, temporary.open("wb") as file, ExitStack() as opened:
            sources = {path: opened.enter_context(path.open("rb")) for path in {entry.path for entry in ordered}}
            for entry in ordered:
                file.write(line_at(sources[entry.path], entry.offset).rstrip(b"\r\n") + b"\n")
        shutil.rmtree(self._journals)
        return ordered

    def _read_journals(self) -> dict[str, Entry]:
        return {record["file_name"]: self._entry(path, offset, record) for path, offset, record in read_journals(self._journals, NEEDED)}

    def _entry(self, path: Path, offset: int, record: dict[str, Any]) -> Entry:
        return Entry(record["file_name"], self._masks.setdefault(record["mask"], record["mask"]), record["k"], path, offset)


class Journal:
    """Records of one process, each written as soon as it is added. A context manager."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(as_line(record))
        self._file.flush()


def as_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def join_journals(folder: Path, needed: Needed, wanted: Callable[[dict[str, Any]], bool] = lambda record: True) -> None:
    """Make one journal of those that killed runs left in `folder`, of the records that are `wanted`, so that nothing is added after a line
    that was cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    older, kept = _journals(folder), folder / "kept.jsonl"
    with written_whole(kept) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(as_line(record) for _, _, record in read_journals(folder, needed) if wanted(record))
    for path in older:
        if path != kept:
            path.unlink()


def read_journals(folder: Path, needed: Needed) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The records in a folder of journals, each with its file and its line's offset. Lines that a kill cut off are passed over."""
    for path in _journals(folder):
        for offset, line in _lines(path):
            if (record := _record(line, needed)) is not None:
                yield path, offset, record


def read_records(path: Path, needed: Needed) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a manifest in order, each with its line's offset.

    Raises: FileNotFoundError when there is none; ValueError for a line without what is needed, or a path that leads out of the folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist, looked in {path.parent.resolve()}. Make candidates with diffharmony generate.")
    for number, (offset, line) in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        record = _record(line, needed)
        if record is None:
            raise ValueError(
                f"line {number} of {path} must be a JSON object with {', '.join(needed)}, got {line[:80].decode(errors='replace')!r}. "
                "Delete the file: diffharmony generate writes it again."
            )
        for name in (record[key] for key in PATHS if key in needed):
            if name.startswith("/") or ".." in name.split("/") or "\\" in name:
                raise ValueError(f"paths in line {number} of {path} must stay in its folder, got {name!r}. Mend the line.")
        yield offset, record


def read_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a folder of candidates, in order. Raises: as read_records."""
    return (record for _, record in read_records(path, {**NEEDED, "real": str}))


def line_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline()


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.jsonl"))  # hidden is what a kill left unfinished


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def _record(line: bytes, needed: Needed) -> dict[str, Any] | None:
    """None for what is no JSON object with all that is needed."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    found = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in needed.items())
    return record if found else None
