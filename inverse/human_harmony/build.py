"""The stages of Human Harmony: photographs and masks, candidates, selection, split, lists (SPEC §6)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...classifier.checkpoint import load_harmony_classifier
from ...common.files import written_whole
from ...common.processes import on_main
from ...common.run_folder import claim, clear_unfinished, hold, let_go
from ...dataset.foreground_ratio import PICTURE, check_data_set, draw_shares
from ...dataset.layout import CANDIDATES, COMPOSITES, MASKS, REALS, TEST_LIST, TRAIN_LIST, check_name, write_list
from ...dataset.same_files import same_files
from ..generate import Wanted, load_pair, make_candidates
from ..select_folder import Limits, select_candidates
from ..settings import Recipe
from ..sources import Source
from .dry_run import InputSpec, check_report, counts_of, in_words, nothing_left
from .masks import place_subjects
from .split import TEST_SHARE, split_photographs

logger = logging.getLogger("diffharmony")
SUBSET = "HumanHarmony"
SETTINGS, REPORT, DAMAGE, SELECTED = "human_harmony.settings.json", "human_harmony.json", "damage.jsonl", "IHD_selected.txt"


@dataclass(frozen=True)
class BuildOptions:
    """How composites are made of them, and divided. iharmony4: a data set to draw beside, see draw_shares."""

    recipe: Recipe
    candidates: int
    classifier: Path
    limits: Limits = Limits()
    test_share: float = TEST_SHARE
    iharmony4: Path | None = None
    batch_size: int = 32
    workers: int = 2

    def check(self) -> None:
        """Raises, before anything is written: as the loaders do; ValueError for models of the other direction or a share outside 0..1;
        FileNotFoundError for a data set without lists."""
        split_photographs((), test_share=self.test_share)
        if self.iharmony4 is not None:
            check_data_set(self.iharmony4)
        load_pair(self.recipe)
        load_harmony_classifier(self.classifier)


class Prepared(NamedTuple):
    """Photographs and masks in their places. shares: (name, mask name) -> foreground's share. same: as same_files."""

    sources: list[Source]
    shares: dict[tuple[str, str], float]
    same: dict[str, str]
    counts: dict[str, Any]


def build_data_set(wanted: InputSpec, options: BuildOptions, out: Path, *, subset: str = SUBSET, report: Path | None = None) -> dict[str, Any]:
    """Build the data set in `out`, in iHarmony4's layout. Every process calls it; candidates and scores are shared among them.

    A run that was killed goes on where it was, with the same settings. Writes `<subset>/real_images`, `masks`, `cand_composite_images` and
    `composite_images`, the lists IHD_train.txt and IHD_test.txt, human_harmony.json (what it returns), damage.jsonl (or `report`), and
    figure2.png. Returns: JSON-able counts of what was found, dropped and why, made, chosen, and of both lists.
    Raises: ValueError when the folder was begun with other settings or holds another data set, or nothing is left to take; RuntimeError
    when another run is under way in it; as make_candidates, select_candidates. Source: SPEC §6.
    """
    check_name(subset, "subset")
    prepared = on_main(lambda: _prepare(wanted, options, out, subset, report))
    ks = range(1, options.candidates + 1)
    made = make_candidates(out, out, [Wanted(source, ks) for source in prepared.sources], options.recipe, on_bad_image=wanted.on_bad_image)
    selection = select_candidates(
        out, out, options.classifier, options.limits, list_file=SELECTED, device=options.recipe.device, batch_size=options.batch_size,
        workers=options.workers,
    )  # fmt: skip
    counts = {**prepared.counts, "candidates": {"made": made.made, "found": made.found, "bad_images": made.bad}, "selection": selection}
    return on_main(lambda: _finish(prepared, options, out, counts))


def _prepare(wanted: InputSpec, options: BuildOptions, out: Path, subset: str, report: Path | None) -> Prepared:
    check_report(report)
    subjects, problems, seen = wanted.scan()
    options.check()
    out.mkdir(parents=True, exist_ok=True)
    hold(out, "--out")
    try:
        _take(out, subset, {**wanted.described(), "subset": subset, "candidates": options.candidates, **options.recipe.described()})
        sources, shares, files = [], {}, {}
        for source, share, photograph in place_subjects(subjects, out, subset, workers=options.workers):
            sources.append(source)
            shares[source.image, source.mask] = share
            files[source.image] = photograph
    except BaseException:
        let_go(out)
        raise
    report = report or out / DAMAGE
    problems.write(report)
    counts = counts_of(wanted, seen, problems, files)
    if problems.counts:
        logger.warning("%d rows, photographs or masks are damaged, see %s: %s", problems.counts.total(), report, in_words(problems.counts))
    if not sources:
        let_go(out)
        raise ValueError(nothing_left(seen.photographs, seen.dropped))
    return Prepared(sources, shares, same_files(files.items()), counts)


def _take(out: Path, subset: str, settings: dict[str, Any]) -> None:
    """Claim the folder, which must be held, and clear away what a killed run had not finished."""
    if not (out / SETTINGS).is_file():
        for path in (out / TRAIN_LIST, out / TEST_LIST, out / subset):
            if path.exists():
                raise ValueError(f"--out must be a new folder, or one that human-harmony began, got {path} in it. Choose another --out.")
    claim(out, settings, SETTINGS)
    clear_unfinished(out, ("", *(f"{subset}/{kind}" for kind in (REALS, MASKS, CANDIDATES, COMPOSITES))))


def _finish(prepared: Prepared, options: BuildOptions, out: Path, counts: dict[str, Any]) -> dict[str, Any]:
    hold(out, "--out")
    try:
        by_photograph: dict[str, list[str]] = {}
        shares = []
        for line in (out / SELECTED).read_text(encoding="utf-8").splitlines():
            name, mask_name, _ = PurePosixPath(line).stem.rsplit("_", 2)
            # an earlier run may have had a larger --limit
            if (share := prepared.shares.get((name, mask_name))) is not None:
                by_photograph.setdefault(name, []).append(line)
                shares.append(share)
        if not shares:
            rejected = in_words(counts["selection"]["rejected"])
            raise ValueError(f"selection must leave at least one composite, got none ({rejected}). Relax its limits.")
        train, test = split_photographs(by_photograph, seed=options.recipe.seed, test_share=options.test_share, same=prepared.same)
        sides = {TRAIN_LIST: train, TEST_LIST: test}
        lines = {file: [line for name in names for line in by_photograph[name]] for file, names in sides.items()}
        for file in lines:
            # a kill between the two must not leave one of another split: a photograph on both sides
            (out / file).unlink(missing_ok=True)
        for file, listed in lines.items():
            write_list(out / file, listed)
            if not listed:
                logger.warning("%s is empty: --test-share %.3g of %d photographs.", file, options.test_share, len(by_photograph))
        result = {
            **counts,
            "equal_photographs": len(prepared.same),
            "photographs_listed": {file: len(names) for file, names in sides.items()},
            "composites_listed": {file: len(listed) for file, listed in lines.items()},
            "foreground_share": draw_shares(shares, options.iharmony4, out / PICTURE),
        }
        with written_whole(out / REPORT) as temporary:
            temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return result
    finally:
        let_go(out)
