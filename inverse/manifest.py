"""`candidates.jsonl`: the candidates of a folder, one a line.

The folder is the ledger: a candidate appears whole, its name says of what it is, and its seed follows from that. The list is written
from the folder once a run has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..common.files import parse_json, read_json
from ..dataset.layout import COMPOSITES, is_plain

MANIFEST = "candidates.jsonl"
NEEDED = {"file_name": str, "real": str, "mask": str, "k": int}


class Candidate(NamedTuple):
    """A line of the manifest: paths relative to its folder, with /, and the number."""

    file_name: str
    real: str
    mask: str
    k: int

    @classmethod
    def of(cls, record: dict[str, Any]) -> Candidate:
        return cls(*(record[name] for name in cls._fields))

    @property
    def composite(self) -> str:
        """Where it goes once chosen: `<subset>/cand_composite_images/<name>` -> `<subset>/composite_images/<name>`."""
        path = PurePosixPath(self.file_name)
        return (path.parent.parent / COMPOSITES / path.name).as_posix()


def read_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a folder of candidates, in order.

    Raises: FileNotFoundError when there is none; ValueError for a line without what is needed, or a path that leads out of the folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist, looked in {path.parent.resolve()}. Make candidates with diffharmony generate.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = parse_line(line, NEEDED)
            if record is None:
                raise ValueError(
                    f"line {number} of {path} must be a JSON object with {', '.join(NEEDED)}, got "
                    f"{line[:80].decode(errors='replace')!r}. Delete the file: diffharmony generate writes it again."
                )
            for name in (record["file_name"], record["real"], record["mask"]):
                if not all(map(is_plain, name.split("/"))):
                    raise ValueError(f"paths in line {number} of {path} must stay in its folder, got {name!r}. Mend the line.")
            yield record


def read_pairs(folder: Path) -> list[list[Candidate]]:
    """The candidates of each mask, masks and candidates in the manifest's order.

    Raises: as read_manifest; ValueError when it names none.
    """
    groups: dict[str, list[Candidate]] = {}
    for record in read_manifest(folder / MANIFEST):
        group = groups.setdefault(record["mask"], [])
        one = Candidate.of(record)
        group.append(one._replace(real=group[0].real, mask=group[0].mask) if group else one)  # each path once in memory
    if not groups:
        raise ValueError(f"{folder / MANIFEST} must name at least one candidate, got none. Make some with diffharmony generate.")
    return list(groups.values())


def settings_file(manifest: Path) -> Path:
    """Where it is written down what the candidates of a manifest are made with."""
    return manifest.with_name(f"{manifest.stem}.settings.json")


def read_made_with(folder: Path, option: str) -> dict[str, Any]:
    """What the candidates of a folder are made with. option: that named it. Raises: FileNotFoundError for a folder of another origin."""
    path = settings_file(folder / MANIFEST)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} must exist, looked in {folder.resolve()}: {option} must be a folder that diffharmony generate made. Make "
            "candidates with it."
        )
    return read_json(path)


def as_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def parse_line(line: bytes, needed: dict[str, Any]) -> dict[str, Any] | None:
    """None for what is no JSON object with all that is needed. needed: name -> type, or union of types."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    found = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in needed.items())
    return record if found else None
