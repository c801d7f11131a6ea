"""Scores of the candidates in a folder, by the harmony classifier: over any number of processes, none computed twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..common.checkpoint import written_whole
from ..common.images import pil_to_mask, pil_to_tensor, read_picture
from ..train.processes import on_main, processes
from .classifier import HarmonyClassifier, unharmonious_probability
from .ledger import Journal

JOURNALS = ".scores"
AHEAD = 4  # pairs that are read while others are scored
NEEDED = ("file_name", "real", "mask", "distance")
SCORE, CLASSIFIER = "score", "classifier"

Group = list[dict[str, Any]]


class Manifest:
    """The candidates of a folder, by pair: iterating gives, for each mask, its records in the manifest's order.

    Raises: FileNotFoundError when there is none; ValueError for an empty or damaged one, or paths that lead out of its folder.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.name} must exist, looked in {path.parent.resolve()}. Make candidates with diffharmony generate."
            )
        self.path = path
        # lines, not records: a data set of candidates has hundreds of thousands
        self._groups: dict[str, list[str]] = {}
        self.count = 0
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._groups.setdefault(_checked(line, path, number)["mask"], []).append(line)
                    self.count += 1
        if not self.count:
            raise ValueError(f"{path} must name at least one candidate, got none. Make some with diffharmony generate.")

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        for lines in self._groups.values():
            yield [json.loads(line) for line in lines]


def score_candidates(
    folder: Path, manifest: Manifest, classifier: HarmonyClassifier, classifier_digest: str, *, device: torch.device,
    batch_size: int = 32, workers: int = 2,
) -> int:  # fmt: skip
    """Score what this classifier has not scored yet, and write the manifest anew with `score` and `classifier`; called by every process,
    each scores its share of the pairs. Returns: how many were scored now, by all.

    A killed run loses nothing that it has scored: each process adds to a journal, from which the next run goes on.
    Raises: FileNotFoundError, ValueError for images that are missing, damaged, or of another size than their mask.
    """
    state, journals = processes(), folder / JOURNALS
    on_main(lambda: _begin(journals))
    known = _journalled(journals)
    share = islice(manifest, state.process_index, None, state.num_processes)
    todo = [rows for group in share if (rows := [row for row in group if _found(row, classifier_digest, known) is None])]
    total = sum(map(len, todo))
    bar = tqdm(total=total, desc="scores", unit="image", delay=1, dynamic_ncols=True, disable=not state.is_main_process)
    with Journal(journals / f"process-{state.process_index:05d}.jsonl") as journal, ThreadPoolExecutor(max(1, workers)) as pool, bar:
        for rows, images, mask in _read_ahead(pool, folder, todo, classifier.needs_mask):
            scores = unharmonious_probability(classifier, images, mask, device=device, batch_size=batch_size).tolist()
            for row, score in zip(rows, scores):
                journal.add({"key": _key(row, classifier_digest), SCORE: score})
            bar.update(len(rows))
    scored = sum(gather_object([total]))
    on_main(lambda: _merge(manifest, journals, classifier_digest))
    return scored


def _begin(journals: Path) -> None:
    """Make one journal of those that killed runs left, so that nothing is added after a line that was cut off."""
    journals.mkdir(exist_ok=True)
    older = _files(journals)
    kept = journals / "kept.jsonl"
    known = _journalled(journals)
    with written_whole(kept) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"key": key, SCORE: score}) + "\n" for key, score in known.items())
    for path in older:
        if path != kept:
            path.unlink()


def _read_ahead(pool: ThreadPoolExecutor, folder: Path, groups: list[Group], with_mask: bool) -> Iterator[tuple]:
    waiting, groups = [], iter(groups)
    while True:
        for rows in islice(groups, AHEAD - len(waiting)):
            waiting.append((rows, pool.submit(_images, folder, rows, with_mask)))
        if not waiting:
            return
        rows, future = waiting.pop(0)
        yield rows, *future.result()


def _images(folder: Path, rows: Group, with_mask: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The candidates [K, 3, H, W] of one pair in -1..1 and their mask [1, 1, H, W]. Raises: ValueError where sizes differ."""
    images = [pil_to_tensor(read_picture(folder / row["file_name"])) for row in rows]
    mask = pil_to_mask(read_picture(folder / rows[0]["mask"])) if with_mask else None
    size = images[0].shape[-2:] if mask is None else mask.shape[-2:]
    for row, image in zip(rows, images):
        if image.shape[-2:] != size:
            found, wanted = (f"{shape[1]} x {shape[0]} px" for shape in (image.shape[-2:], size))
            raise ValueError(
                f"candidates and mask of a pair must have one size, got {found} and {wanted} for {row['file_name']}. Make it again."
            )
    return torch.cat(images), mask


def _merge(manifest: Manifest, journals: Path, classifier_digest: str) -> None:
    known = _journalled(journals)
    with written_whole(manifest.path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in (row for group in manifest for row in group):
            if row.get(CLASSIFIER) != classifier_digest or row.get(SCORE) is None:
                row[SCORE], row[CLASSIFIER] = known[_key(row, classifier_digest)], classifier_digest
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    shutil.rmtree(journals)


def _found(row: dict[str, Any], classifier_digest: str, known: dict[str, float]) -> float | None:
    if row.get(CLASSIFIER) == classifier_digest and row.get(SCORE) is not None:
        return row[SCORE]
    return known.get(_key(row, classifier_digest))


def _journalled(journals: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in _files(journals):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found[entry["key"]] = float(entry[SCORE])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # a line cut off by a kill
    return found


def _files(journals: Path) -> list[Path]:
    return sorted(journals.glob("[!.]*.jsonl"))  # hidden is what a kill left unfinished


def _key(row: dict[str, Any], classifier_digest: str) -> str:
    """What a score belongs to: how the candidate was made, and the classifier."""
    made = {name: value for name, value in row.items() if name not in (SCORE, CLASSIFIER)}
    text = json.dumps([made, classifier_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _checked(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        missing = [name for name in NEEDED if name not in row]
        names = [PurePosixPath(row[name]) for name in NEEDED[:3]] if not missing else []
        float(row["distance"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        row, missing, names = None, list(NEEDED), []
    if missing:
        raise ValueError(
            f"line {number} of {path} must be a JSON object with {', '.join(NEEDED)}, got {line[:80]!r}. Make the candidates again."
        )
    for name in names:
        if name.is_absolute() or ".." in name.parts or "\\" in str(name):
            raise ValueError(f"paths in line {number} of {path} must stay in its folder, got {str(name)!r}. Mend the line.")
    return row
