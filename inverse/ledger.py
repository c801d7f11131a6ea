"""The manifest of a folder of candidates, and the journals that it is written from; both survive a kill at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..common.checkpoint import written_whole

MANIFEST = "candidates.jsonl"


class Entry(NamedTuple):
    """One line of the manifest, and what it is sorted by. A line is kept as it was written: other commands add to it."""

    file_name: str
    mask: str
    k: int
    line: str


class Ledger:
    """What is known of the candidates in a folder: the manifest `<out>/<name>` and, while candidates are made, a journal per process.

    A process adds each record after its file. The manifest is written whole at the end, and the journals go. Of two records of one
    file the manifest's counts.
    """

    def __init__(self, out: Path, name: str = MANIFEST):
        self.manifest = out / name
        self.settings_name = f"{self.manifest.stem}.settings.json"
        self._journals = out / f".{self.manifest.stem}.journal"

    def begin(self, there: Callable[[str], bool]) -> dict[str, Entry]:
        """What is known of the files that are `there`, by file name; journals of killed runs become one. By the first process, before
        any adds.

        Raises: ValueError for a manifest that cannot be read.
        """
        known = {entry.file_name: entry for entry in self._read_journals() if there(entry.file_name)}
        self._journals.mkdir(parents=True, exist_ok=True)
        older = self._files()
        kept = self._journals / "kept.jsonl"
        with written_whole(kept) as temporary:
            temporary.write_text("".join(f"{entry.line}\n" for entry in known.values()), encoding="utf-8")
        for file in older:
            if file != kept:
                file.unlink()
        if self.manifest.is_file():
            known.update((entry.file_name, entry) for entry in _read(self.manifest) if there(entry.file_name))
        return known

    def journal(self, process: int) -> Journal:
        """This process's own."""
        return Journal(self._journals / f"process-{process:05d}.jsonl")

    def finish(self, known: dict[str, Entry], order: Iterable[str]) -> list[Entry]:
        """Write the manifest of `known` and all that the journals say: by `order` of the masks' paths and by k, then what is of other
        masks. By the first process, after all have closed theirs. Returns: its entries."""
        entries = {**{entry.file_name: entry for entry in self._read_journals()}, **known}
        places = {mask: place for place, mask in enumerate(order)}
        last = len(places)
        ordered = sorted(entries.values(), key=lambda entry: (places.get(entry.mask, last), entry.k if entry.mask in places else 0))
        with written_whole(self.manifest) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{entry.line}\n" for entry in ordered)
        shutil.rmtree(self._journals)
        return ordered

    def _read_journals(self) -> list[Entry]:
        return [entry for file in self._files() for entry in _read(file, torn=True)]

    def _files(self) -> list[Path]:
        return sorted(self._journals.glob("[!.]*.jsonl"))  # hidden is what a kill left unfinished


class Journal:
    """Records of one process, each written as soon as it is added. A context manager."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The records of a folder of candidates, in order. Raises: FileNotFoundError when there is none; ValueError when it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist, looked in {path.parent.resolve()}. Make candidates with diffharmony generate.")
    return [json.loads(entry.line) for entry in _read(path)]


def _read(path: Path, torn: bool = False) -> list[Entry]:
    """torn: the last line may be cut off, and is dropped then."""
    lines = path.read_text(encoding="utf-8", errors="replace" if torn else "strict").split("\n")
    rest = lines.pop()
    if rest and not torn:
        lines.append(rest)
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            entries.append(Entry(record["file_name"], record["mask"], record["k"], line))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path} must be a JSON object with file_name, mask and k, got {line[:80]!r}. Delete the file: "
                "diffharmony generate writes it again."
            ) from error
    return entries
