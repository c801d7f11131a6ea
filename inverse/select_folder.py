"""Select in a folder of candidates: the chosen ones placed where trainers look, their list, and what was rejected and why (SPEC §6)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..classifier.checkpoint import load_harmony_classifier
from ..common.files import read_json, written_whole
from ..common.processes import on_main, processes
from ..common.run_folder import digest, hold, let_go
from ..dataset.layout import COMPOSITES, TRAIN_LIST, place, write_list
from ..dataset.same_files import same_file
from .manifest import MANIFEST
from .scoring import SCORE, Group, Manifest, score_candidates
from .selection import REASONS, Choice, check_limits, choose_candidates

logger = logging.getLogger("diffharmony")
RESULT, SHEET = "selection.json", "selection.png"
PLACING = ".selection.txt"  # the list of what is being placed, for the run after a kill


@dataclass(frozen=True)
class Limits:
    """As `choose_candidates` takes them."""

    count: int = 1
    min_distance: float = 0.0
    max_distance: float | None = None
    max_score: float | None = None


def select_in_folder(
    folder: Path, classifier_path: Path, limits: Limits = Limits(), *, list_file: str = TRAIN_LIST, pictures: int = 8, device=None,
    batch_size: int = 32, workers: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """Score the candidates of `folder` (`diffharmony generate`), choose, place the chosen in `<subset>/composite_images/`, and write
    the list, selection.json and selection.png; called by every process, the first one chooses and writes.

    What an earlier selection placed and this one does not choose is taken away again, where it still is the candidate's image. Returns:
    what selection.json holds, and `scored`.
    Raises, before anything is taken away: FileExistsError where the list, or a composite, is there and not from an earlier selection;
    ValueError for limits that leave nothing, a damaged manifest, or an earlier list with other lines in it; FileNotFoundError for a
    missing manifest; RuntimeError when another run is under way in the folder.
    """
    check_limits(**vars(limits))
    if not _is_list_name(list_file):
        raise ValueError(f"list must be a file name of its own in the folder, got {list_file!r}. Choose {TRAIN_LIST}, say.")
    classifier = load_harmony_classifier(classifier_path)
    classifier_digest = digest(classifier_path)
    try:
        on_main(lambda: _begin(folder, list_file))
        manifest = Manifest(folder / MANIFEST)
        placed = on_main(lambda: _placed(folder, manifest))
        device = processes().device if device is None else device
        scored = score_candidates(folder, manifest, classifier, classifier_digest, device=device, batch_size=batch_size, workers=workers)
        return on_main(lambda: {**_choose(folder, list_file, limits, classifier_digest, placed, pictures), "scored": scored})
    finally:
        let_go(folder)


def _begin(folder: Path, list_file: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of candidates {folder.name!r} must exist, looked in {folder.absolute().parent}. Check --data.")
    hold(folder)
    if (folder / list_file).exists() and list_file not in _earlier(folder):
        raise FileExistsError(
            f"list must be a new file, or an earlier selection's, got {folder / list_file}. Choose another --list, IHD_selected.txt say."
        )


def _choose(
    folder: Path, list_file: str, limits: Limits, classifier_digest: str, placed: dict[str, str], pictures: int
) -> dict[str, Any]:  # fmt: skip
    manifest = Manifest(folder / MANIFEST)  # with the scores
    earlier = _earlier(folder)
    counts, chosen, without, shown = Counter(), [], [], []
    every = max(1, len(manifest) // pictures) if pictures else 0
    for number, group in enumerate(manifest):
        choice = choose_candidates([row[SCORE] for row in group], [row["distance"] for row in group], **vars(limits))
        counts.update(choice.rejected.values())
        names = [(group[index]["file_name"], _target(group[index]["file_name"])) for index in choice.chosen]
        chosen += names
        if not names:
            without.append(PurePosixPath(group[0]["mask"]).with_suffix("").as_posix())
        if every and number % every == 0 and len(shown) < pictures:
            shown.append((group, choice))
    if not chosen:
        rejected = ", ".join(f"{count} {reason}" for reason in REASONS if (count := counts[reason]))
        raise ValueError(f"selection must leave at least one composite, got none ({rejected}). Relax its limits.")
    targets = [target for _, target in chosen]
    _check_free(folder, chosen)
    write_list(folder / PLACING, targets)
    _write_result(folder, {"command": "select", "unfinished": True, "lists": sorted({*earlier, list_file, PLACING})})
    for source, target in chosen:
        if not (folder / target).exists():
            place(folder / source, folder / target)
    write_list(folder / list_file, targets)
    for target in placed.keys() - set(targets):
        if same_file(folder / placed[target], folder / target):
            (folder / target).unlink()
        elif (folder / target).exists():
            logger.warning("%s is left, but listed no longer: it is not the candidate's image.", folder / target)
    result = {
        "command": "select",
        "classifier": classifier_digest,
        "limits": vars(limits),
        "pairs": len(manifest),
        "candidates": manifest.count,
        "chosen": len(chosen),
        "within_limits": manifest.count - sum(counts.values()),
        "rejected": {reason: counts[reason] for reason in REASONS},
        "without_choice": without,
        "lists": [list_file],
    }
    _write_result(folder, result)
    for path in {*earlier, PLACING}:
        if path != list_file:
            (folder / path).unlink(missing_ok=True)
    if shown:
        _draw(folder, shown, folder / SHEET)
    return result


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    with written_whole(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _target(candidate: str) -> str:
    """`<subset>/cand_composite_images/<name>` -> `<subset>/composite_images/<name>`."""
    path = PurePosixPath(candidate)
    return (path.parent.parent / COMPOSITES / path.name).as_posix()


def _is_list_name(name: Any) -> bool:
    """Whether a list may have this name: in the folder, and not of another file that is written there."""
    taken = ("", "..", MANIFEST, RESULT, SHEET)
    return isinstance(name, str) and name not in taken and PurePosixPath(name).name == name and "\\" not in name


def _earlier(folder: Path) -> list[str]:
    """The lists that an earlier selection wrote. Raises: ValueError for what are no names of lists in the folder."""
    path = folder / RESULT
    lists = read_json(path).get("lists", []) if path.is_file() else []
    if not isinstance(lists, list) or not all(map(_is_list_name, lists)):
        raise ValueError(f"lists in {path} must be file names of their own in its folder, got {lists!r}. Mend it.")
    return lists


def _placed(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What an earlier selection placed, composite -> its candidate.

    Raises: ValueError for a line of its lists that is none of these, or a link where composites go that leads elsewhere.
    """
    listed = {}
    for path in (folder / name for name in _earlier(folder)):
        if path.is_file():
            listed |= {line: path for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()}
    placed, parents = {}, set()
    for name in (row["file_name"] for group in manifest for row in group):
        target = _target(name)
        parents.add(PurePosixPath(target).parent)
        if target in listed and target != name:
            placed[target] = name
    for line, path in listed.items():
        if line not in placed:
            raise ValueError(
                f"every line of {path}, which is written anew, must be a composite that select placed, got {line!r}. Keep the edited list "
                f"under another name, remove such lines from {path.name}, and run select again."
            )
    for parent in parents:
        if (found := (folder / parent).resolve()) != folder.resolve() / parent:
            raise ValueError(f"{folder / parent} must be a folder of its own, got a link to {found}. Remove the link.")
    return placed


def _check_free(folder: Path, chosen: list[tuple[str, str]]) -> None:
    """Raises: FileExistsError where another image is in a chosen candidate's place, before any is placed."""
    for source, target in chosen:
        path = folder / target
        if path.exists() and not same_file(folder / source, path):
            raise FileExistsError(
                f"{path} must be free for the chosen candidate of that name, got another image. Move it away, or make the candidates in a "
                "folder of their own: diffharmony generate --out FOLDER."
            )


def _draw(folder: Path, shown: list[tuple[Group, Choice]], path: Path) -> None:
    """Write as PNG, a line for each pair: the real image, the chosen candidate, and all candidates with score and distance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 + max(len(group) for group, _ in shown)
    side, title = 1.5, 0.32  # inches
    width, height = side * columns, (side + title) * len(shown)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    for line, (group, choice) in enumerate(shown):
        best = choice.chosen[0] if choice.chosen else None
        cells: list[tuple[str | None, str, str]] = [(group[0]["real"], "real", "black")]
        if best is None:
            cells.append((None, "none chosen", "#c8553d"))
        else:
            cells.append((group[best]["file_name"], f"chosen: k = {group[best].get('k', best)}", "black"))
        for index, row in enumerate(group):
            colour = "#0b6e4f" if index in choice.chosen else "#8a8a8a" if index in choice.rejected else "black"
            cells.append((row["file_name"], f"{row[SCORE]:.2f}, distance {row['distance']:.0f}", colour))
        for column, (name, label, colour) in enumerate(cells):
            bottom = height - (side + title) * (line + 1)
            axes = figure.add_axes([side * column / width, bottom / height, side * 0.97 / width, side * 0.97 / height])
            axes.set_axis_off()
            axes.set_title(label, fontsize=7, color=colour, pad=2)
            if name is not None:
                axes.imshow(_thumbnail(folder / name))
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _thumbnail(path: Path):
    import numpy as np

    from ..common.images import read_picture

    image = read_picture(path).convert("RGB")
    image.thumbnail((256, 256))
    return np.asarray(image)
