"""Augmentation: as many generated composites per pair as a share of the original ones asks for (SPEC §4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ..common.files import written_whole
from ..common.processes import on_main
from ..common.run_folder import claim, hold, let_go
from ..dataset.layout import COMPOSITES, TRAIN_LIST, write_list
from ..dataset.pairs import DirectoryIndex
from ..dataset.same_files import same_file
from .candidates import name_hash
from .generate import Wanted, make_candidates
from .manifest import MANIFEST, Candidate, as_line, read_made_with, read_manifest, settings_file
from .pairs import write_pairs
from .settings import Recipe
from .sources import list_path, listed_sources

AUGMENTATION = "augmentation.jsonl"


def added_per_pair(gamma: float | Fraction | str, pairs: int, composites: int) -> int:
    """⌈γ N2 / N1⌉, exactly: a decimal γ is taken as it is written, 0.1 as one tenth.

    pairs: N1. composites: N2. Raises: ValueError for a γ that is no positive number, or numbers below 1. Source: SPEC §4.
    """
    share = _exact(gamma)
    for name, value in (("pairs", pairs), ("composites", composites)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Check the list.")
    return math.ceil(share * composites / pairs)


def _exact(gamma: float | Fraction | str) -> Fraction:
    try:
        share = Fraction(str(gamma))
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if share <= 0:
        raise ValueError(f"gamma must be a number above 0, got {gamma!r}. The paper's is 1.")
    return share


def choose_numbers(seed: int, image: str, mask: str, candidates: int, count: int) -> list[int]:
    """`count` of the numbers 1 to `candidates`, at random, ascending; of the arguments alone, whatever the order of pairs.

    More numbers keep the fewer. Raises: ValueError when there are not so many candidates.
    """
    if count > candidates:
        raise ValueError(f"candidates must be at least the {count} added per pair, got {candidates}. Raise --candidates, or lower --gamma.")
    ranked = sorted(range(1, candidates + 1), key=lambda k: (name_hash("choice", seed, image, mask, k), k))
    return sorted(ranked[:count])


def augment(
    data: Path,
    list_file: str,
    out: Path,
    recipe: Recipe | None,
    *,
    gamma: float | Fraction | str = 1,
    candidates: int = 10,
    seed: int = 0,
    from_candidates: Path | None = None,
    limit: int | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> dict[str, Any]:
    """Add generated composites to a training set, in a data set of their own in `out`. Every process calls it.

    list_file: by name in `data`, or a path. Chosen by `seed` are ⌈γ N2 / N1⌉ of the numbers 1 to `candidates` for each pair; these are
    made with `recipe` (see `make_candidates`), or taken from the folder `from_candidates`. limit: only the first so many pairs, counted
    before N2. Returns: JSON-able, pairs (N1), composites (N2), gamma, per_pair, total in the list, and on making, made and found.
    Raises: ValueError for numbers that do not go together, or an `out` that is the data set's folder or was begun with other settings;
    FileNotFoundError for what does not exist; as make_candidates does. Source: SPEC §4.
    """
    sources, composites = listed_sources(data, list_path(data, list_file), DirectoryIndex(), limit)
    per_pair = added_per_pair(gamma, len(sources), composites)
    wanted = [Wanted(source, choose_numbers(seed, source.image, source.mask, candidates, per_pair)) for source in sources]
    if out.exists() and out.samefile(data):
        raise ValueError(f"--out must be another folder than the data set's, which keeps its own composites, got {out}. Choose another.")
    settings = {"gamma": str(_exact(gamma)), "candidates": candidates, "per_pair": per_pair, "choice": seed}
    result: dict[str, Any] = {"pairs": len(sources), "composites": composites, "gamma": float(_exact(gamma)), "per_pair": per_pair}
    if from_candidates is not None:
        result |= on_main(lambda: _take(from_candidates, out, wanted, settings, skip=on_bad_image == "skip"))
    else:
        made = make_candidates(
            data, out, wanted, recipe, folder=COMPOSITES, manifest=AUGMENTATION, on_bad_image=on_bad_image, settings=settings
        )
        result |= {"made": made.made, "found": made.found, "bad_images": made.bad, "total": on_main(lambda: _list(out, wanted))}
    return {**result, "list": str(out / TRAIN_LIST)}


def _list(out: Path, wanted: Sequence[Wanted]) -> int:
    """Write the list of those wanted that are there. Returns: how many."""
    chosen = {(source.mask_path, k) for source, ks in wanted for k in ks}
    names = [record["file_name"] for record in read_manifest(out / AUGMENTATION) if (record["mask"], record["k"]) in chosen]
    write_list(out / TRAIN_LIST, names)
    return len(names)


def _take(folder: Path, out: Path, wanted: Sequence[Wanted], settings: dict[str, Any], *, skip: bool) -> dict[str, int]:
    """Place chosen candidates of a folder, their records and list. Returns: the total, and how many the folder lacks ("missing"), which
    is an error unless those are to be skipped.

    Raises, before anything is placed: ValueError for candidates of another photograph or mask of the same name; FileNotFoundError for
    a folder that generate did not make.
    """
    keys = {(source.mask_path, k): source for source, ks in wanted for k in ks}
    records = {key: record for record in read_manifest(folder / MANIFEST) if (key := (record["mask"], record["k"])) in keys}
    made_with = read_made_with(folder, "--from-candidates")
    for mask, k in keys:
        if (mask, k) not in records and not skip:
            raise ValueError(
                f"{folder / MANIFEST} must name candidate {k} of {mask}, got none. Make candidates 1 to {settings['candidates']} of every "
                "pair of the list with diffharmony generate."
            )
    chosen = [(source, Candidate.of(records[key])) for key, source in keys.items() if key in records]
    made_of = ((name, file) for one, found in chosen for name, file in ((found.real, one.real_file), (found.mask, one.mask_file)))
    for name, file in dict.fromkeys(made_of):
        if not same_file(folder / name, file):
            raise ValueError(
                f"{folder / name}, which candidates were made of, must be the same image as {file}, got another. Make candidates of this "
                "data set with diffharmony generate."
            )
    out.mkdir(parents=True, exist_ok=True)
    hold(out, "--out")
    try:
        claim(out, {**made_with, **settings}, settings_file(out / AUGMENTATION).name)
        names = write_pairs(folder, [candidate for _, candidate in chosen], out, TRAIN_LIST)
        with written_whole(out / AUGMENTATION) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(as_line({**records[key], "file_name": Candidate.of(records[key]).composite}) for key in keys if key in records)
    finally:
        let_go(out)
    return {"missing": len(keys) - len(names), "total": len(names)}
