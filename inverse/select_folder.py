"""Select among candidates: the chosen ones in a folder to train on, with their list, and what was rejected and why (SPEC §6)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..classifier.checkpoint import load_harmony_classifier
from ..common.files import check_folder, written_whole
from ..common.processes import on_main, processes
from ..common.run_folder import claim, clear_unfinished, digest, hold, let_go
from ..common.weights.hub import local_path
from ..common.weights.layout import CLASSIFIER
from ..dataset.layout import TRAIN_LIST
from .manifest import Candidate, read_made_with, read_pairs
from .pairs import write_pairs
from .scoring import SCORES, Score, score_candidates
from .selection import REASONS, Choice, check_limits, choose_candidates

RESULT, SHEET, SETTINGS = "selection.json", "selection.png", "selection.settings.json"
Pairs = Sequence[Sequence[Candidate]]


@dataclass(frozen=True)
class Limits:
    """As `choose_candidates` takes them."""

    count: int = 1
    min_distance: float = 0.0
    max_distance: float | None = None
    max_score: float | None = None


def select_candidates(
    data: Path, out: Path, classifier_path: Path, limits: Limits = Limits(), *, list_file: str = TRAIN_LIST, pictures: int = 8,
    device=None, batch_size: int = 32, workers: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """Score the candidates of `data` (`diffharmony generate`), choose, and place the chosen, their masks and real images in `out`, with
    the list, scores.jsonl, selection.json and selection.png; called by every process, the first one chooses and writes.

    Other limits later need no other scores; what is listed no longer stays where it is. Returns: what selection.json holds, and `scored`.
    Raises, before anything is written: FileExistsError where the list is there and not from an earlier selection; ValueError for limits
    that leave nothing, a damaged manifest, an `out` that was begun with other candidates, or an earlier list with other lines in it;
    FileNotFoundError for a missing manifest; RuntimeError when another run is under way in `out`.
    """
    check_limits(**vars(limits))
    if list_file in ("", ".", "..", RESULT, SHEET, SETTINGS, SCORES) or PurePosixPath(list_file).name != list_file or "\\" in list_file:
        raise ValueError(f"list must be a file name of its own in the folder, got {list_file!r}. Choose {TRAIN_LIST}, say.")
    check_folder(out, "--out")
    classifier_path = local_path(classifier_path, CLASSIFIER)
    classifier, classifier_digest = load_harmony_classifier(classifier_path), digest(classifier_path)
    if not data.is_dir():
        raise FileNotFoundError(f"folder of candidates {data.name!r} must exist, looked in {data.absolute().parent}. Check --data.")
    pairs = read_pairs(data)
    try:
        on_main(lambda: _begin(data, out, list_file, pairs))
        device = processes().device if device is None else device
        scores, scored = score_candidates(
            data, pairs, out, classifier, classifier_digest, device=device, batch_size=batch_size, workers=workers
        )  # fmt: skip
        return on_main(lambda: {**_choose(data, out, list_file, limits, classifier_digest, pairs, scores, pictures), "scored": scored})
    finally:
        let_go(out)


def _begin(data: Path, out: Path, list_file: str, pairs: Pairs) -> None:
    made_with, path = read_made_with(data, "--data"), out / list_file
    out.mkdir(parents=True, exist_ok=True)
    hold(out, "--out")
    if path.exists():
        if not any((out / name).is_file() for name in (SETTINGS, RESULT)):
            raise FileExistsError(f"list must be a new file, or an earlier selection's, got {path}. Choose another --out.")
        ours = {row.composite for pair in pairs for row in pair}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip() and line not in ours:
                raise ValueError(
                    f"every line of {path}, which is written anew, must be a composite that select placed, got {line!r}. Keep the edited "
                    "list elsewhere, or choose another --out."
                )
    claim(out, {**made_with, "list": list_file}, SETTINGS)
    clear_unfinished(out, [""])


def _choose(
    data: Path, out: Path, list_file: str, limits: Limits, classifier_digest: str, pairs: Pairs, scores: dict[str, Score], pictures: int
) -> dict[str, Any]:  # fmt: skip
    choices = []
    for pair in pairs:
        values = [scores[row.file_name] for row in pair]
        choices.append(choose_candidates([one.score for one in values], [one.distance for one in values], **vars(limits)))
    counts = Counter(reason for choice in choices for reason in choice.rejected.values())
    chosen = [pair[index] for pair, choice in zip(pairs, choices) for index in choice.chosen]
    without = [PurePosixPath(pair[0].mask).with_suffix("").as_posix() for pair, choice in zip(pairs, choices) if not choice.chosen]
    candidates = sum(map(len, pairs))
    if not chosen:
        rejected = ", ".join(f"{count} {reason}" for reason in REASONS if (count := counts[reason]))
        raise ValueError(f"selection must leave at least one composite, got none ({rejected}). Relax its limits.")
    write_pairs(data, chosen, out, list_file)
    result = {
        "command": "select",
        "classifier": classifier_digest,
        "limits": vars(limits),
        "pairs": len(pairs),
        "candidates": candidates,
        "chosen": len(chosen),
        "within_limits": candidates - counts.total(),
        "rejected": {reason: counts[reason] for reason in REASONS},
        "without_choice": without,
        "lists": [list_file],
    }
    with written_whole(out / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if pictures:
        shown = list(zip(pairs, choices))[:: max(1, len(pairs) // pictures)][:pictures]
        _draw(data, shown, scores, out / SHEET)
    return result


def _draw(folder: Path, shown: list[tuple[Sequence[Candidate], Choice]], scores: dict[str, Score], path: Path) -> None:
    """Write as PNG, a line for each pair: the real image, the chosen candidate, and all candidates with score and distance."""
    from matplotlib.figure import Figure

    from ..common.plots import save_figure

    columns = 2 + max(len(group) for group, _ in shown)
    side, title = 1.5, 0.32  # inches
    width, height = side * columns, (side + title) * len(shown)
    figure = Figure(figsize=(width, height), dpi=100)
    for line, (group, choice) in enumerate(shown):
        best = choice.chosen[0] if choice.chosen else None
        cells: list[tuple[str | None, str, str]] = [(group[0].real, "real", "black")]
        if best is None:
            cells.append((None, "none chosen", "#c8553d"))
        else:
            cells.append((group[best].file_name, f"chosen: k = {group[best].k}", "black"))
        for index, row in enumerate(group):
            colour = "#0b6e4f" if index in choice.chosen else "#8a8a8a" if index in choice.rejected else "black"
            score, distance = scores[row.file_name]
            cells.append((row.file_name, f"{score:.2f}, distance {distance:.0f}", colour))
        for column, (name, label, colour) in enumerate(cells):
            bottom = height - (side + title) * (line + 1)
            axes = figure.add_axes([side * column / width, bottom / height, side * 0.97 / width, side * 0.97 / height])
            axes.set_axis_off()
            axes.set_title(label, fontsize=7, color=colour, pad=2)
            if name is not None:
                axes.imshow(_thumbnail(folder / name))
    save_figure(figure, path)


def _thumbnail(path: Path):
    import numpy as np

    from ..common.images import read_picture

    image = read_picture(path).convert("RGB")
    image.thumbnail((256, 256))
    return np.asarray(image)
