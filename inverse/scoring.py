"""Scores of the candidates in a folder, by the harmony classifier: over any number of processes, none computed twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..classifier.inference import unharmonious_probability
from ..classifier.model import HarmonyClassifier
from ..common.files import written_whole
from ..common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture
from ..common.processes import on_main, processes
from .manifest import Journal, as_line, join_journals, line_at, read_journals, read_records

JOURNALS = ".scores"
AHEAD = 4  # pairs that are read while others are scored
SCORE, CLASSIFIER = "score", "classifier"
NEEDED = {"file_name": str, "real": str, "mask": str, "distance": int | float}
SCORED = {"key": str, SCORE: int | float}  # a record of a journal

Group = list[dict[str, Any]]


class Manifest:
    """The candidates of a folder, by pair: iterating gives, for each mask, its records in the manifest's order.

    They are read anew each time, by their places in the file: once it is written anew, another Manifest is needed.
    Raises: FileNotFoundError when there is none; ValueError for an empty or damaged one, or paths that lead out of its folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._groups: dict[str, array[int]] = {}  # mask -> offsets of its lines: a data set of candidates has hundreds of thousands
        for offset, record in read_records(path, NEEDED):
            self._groups.setdefault(record["mask"], array("q")).append(offset)
        self.count = sum(map(len, self._groups.values()))
        if not self.count:
            raise ValueError(f"{path} must name at least one candidate, got none. Make some with diffharmony generate.")

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        with self.path.open("rb") as file:
            for offsets in self._groups.values():
                yield [json.loads(line_at(file, offset)) for offset in offsets]


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
    on_main(lambda: join_journals(journals, SCORED))
    known = _journalled(journals)

    def todo() -> Iterator[Group]:
        for group in islice(manifest, state.process_index, None, state.num_processes):
            if rows := [row for row in group if _found(row, classifier_digest, known) is None]:
                yield rows

    total = sum(map(len, todo()))
    bar = tqdm(total=total, desc="scores", unit="image", delay=1, dynamic_ncols=True, disable=not state.is_main_process)
    with Journal(journals / f"process-{state.process_index:05d}.jsonl") as journal, ThreadPoolExecutor(max(1, workers)) as pool, bar:
        for rows, images, mask in _read_ahead(pool, folder, todo(), classifier.needs_mask):
            scores = unharmonious_probability(classifier, images, mask, device=device, batch_size=batch_size).tolist()
            for row, score in zip(rows, scores):
                journal.add({"key": _key(row, classifier_digest), SCORE: score})
            bar.update(len(rows))
    scored = sum(gather_object([total]))
    on_main(lambda: _merge(manifest, journals, classifier_digest))
    return scored


def _read_ahead(pool: ThreadPoolExecutor, folder: Path, groups: Iterator[Group], with_mask: bool) -> Iterator[tuple]:
    waiting = []
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
    mask = pil_to_mask(read_mask(folder / rows[0]["mask"])) if with_mask else None
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
            file.write(as_line(row))
    shutil.rmtree(journals)


def _found(row: dict[str, Any], classifier_digest: str, known: dict[str, float]) -> float | None:
    if row.get(CLASSIFIER) == classifier_digest and row.get(SCORE) is not None:
        return row[SCORE]
    return known.get(_key(row, classifier_digest))


def _journalled(journals: Path) -> dict[str, float]:
    return {record["key"]: record[SCORE] for _, _, record in read_journals(journals, SCORED)}


def _key(row: dict[str, Any], classifier_digest: str) -> str:
    """What a score belongs to: how the candidate was made, and the classifier."""
    made = {name: value for name, value in row.items() if name not in (SCORE, CLASSIFIER)}
    text = json.dumps([made, classifier_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
