"""Make candidates of many pairs: over any number of processes, gone on with after a kill, none twice (SPEC §4)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import gather_object

from ..common.devices import cpu_threads
from ..common.direction import check_inverse
from ..common.files import check_folder
from ..common.processes import on_main, processes
from ..common.run_folder import UNFINISHED, claim, hold, let_go
from ..dataset.layout import CANDIDATES, MASKS, REALS
from ..dataset.pairs import DirectoryIndex, name_some
from ..diffusion.inference import working_size
from ..diffusion.unet import load_unet
from ..harmony_vae import load_harmony_vae
from .manifest import MANIFEST, Entry, Ledger
from .settings import Recipe
from .sources import Source
from .worker import Job, Place, make_share

logger = logging.getLogger("diffharmony")


class Wanted(NamedTuple):
    """Candidates `ks` of a pair."""

    source: Source
    ks: Sequence[int]


class Made(NamedTuple):
    """What came of it, in all processes. made: candidates made now; found: that were there already; bad: path of each image that was
    skipped -> why; entries: the manifest's, on the first process only."""

    made: int
    found: int
    bad: dict[str, str]
    entries: list[Entry]


def make_candidates(
    root: Path,
    out: Path,
    wanted: Sequence[Wanted],
    recipe: Recipe,
    *,
    folder: str = CANDIDATES,
    manifest: str = MANIFEST,
    on_bad_image: Literal["stop", "skip"] = "stop",
    settings: dict[str, Any] | None = None,
) -> Made:
    """Write `<out>/<subset>/<folder>/<a>_<m>_<k>` for everything wanted, and the manifest. Every process calls it, and makes its share.

    Candidates that are there are left. Real images and masks are placed beside them, where `out` is not `root`. settings: what the folder
    is claimed with besides the recipe.
    Raises, in every process and before any writes: ValueError when the folder was begun with other settings or holds files of other
    origin, or for models of the other direction; FileNotFoundError for images that do not exist; RuntimeError when another run is
    under way in it. Later, unless bad images are skipped: BadImage. Source: SPEC §4.
    """
    wanted = [item for item in wanted if item.ks]
    working_size(1, 1, recipe.size)
    if on_bad_image == "stop":
        _check_files(wanted)
    check_folder(out, "--out")
    vae, unet = load_pair(recipe)
    out.mkdir(parents=True, exist_ok=True)
    plan = _Plan(Place(out, folder, recipe.suffix, placed=not out.samefile(root)), wanted, Ledger(out, manifest))
    try:
        described, jobs = on_main(lambda: plan.begin(recipe, settings or {}))
        state = processes()
        share = [(wanted[job.index].source, job) for job in jobs[state.process_index :: state.num_processes]]
        with cpu_threads(recipe.threads) if recipe.device.type == "cpu" else nullcontext():
            outcome = make_share(share, plan.place, vae, unet, recipe, described, plan.ledger, skip=on_bad_image == "skip")
        # every process has closed its journal once all have told what they did
        outcomes = gather_object([outcome])
        on_main(plan.finish)
    finally:
        let_go(out)
    made, left = (sum(outcome[place] for outcome in outcomes) for place in (0, 1))
    bad = {path: why for *_, bad in outcomes for path, why in bad.items()}
    if bad and state.is_main_process:
        logger.warning("%d images could not be used, and have no candidates: %s.", len(bad), name_some([Path(path) for path in bad]))
    return Made(made, sum(len(item.ks) for item in wanted) - made - left, bad, plan.entries)


def _check_files(wanted: Sequence[Wanted]) -> None:
    folders = DirectoryIndex()
    paths = dict.fromkeys(path for item in wanted for path in (item.source.mask_file, item.source.real_file))
    missing = [path for path in paths if not folders.has(str(path))]
    if missing:
        raise FileNotFoundError(
            f"every mask and real image must exist, got {len(missing)} missing: {name_some(missing)}. Complete the data set, mend its "
            "list, or pass --on-bad-image skip."
        )


def load_pair(recipe: Recipe) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The inverse pair on its device. Raises: as the loaders do; ValueError for models of the other direction."""
    dtype = getattr(torch, recipe.dtype)
    vae = load_harmony_vae(recipe.vae, dtype)
    check_inverse(vae, str(recipe.vae))
    unet = load_unet(recipe.unet, dtype=dtype)
    check_inverse(unet, str(recipe.unet))
    return vae.to(recipe.device), unet.to(recipe.device)


class _Plan:
    """What the first process does before and after all others."""

    def __init__(self, place: Place, wanted: Sequence[Wanted], ledger: Ledger):
        self.place, self.ledger, self._wanted = place, ledger, wanted
        self._known: dict[str, Entry] = {}
        self.entries: list[Entry] = []

    def begin(self, recipe: Recipe, settings: dict[str, Any]) -> tuple[dict[str, Any], list[Job]]:
        """Take the folder, and find what is left to do. Returns: the recipe described, and the jobs."""
        out = self.place.out
        hold(out, "--out")
        described = recipe.described()
        there = DirectoryIndex()
        if not (out / self.ledger.settings_name).is_file():
            self._refuse_foreign(there)
        claim(out, {**described, **settings}, self.ledger.settings_name)
        self._clear_unfinished()
        self._known = self.ledger.begin(lambda name: there.has(str(out / name)))
        return described, [job for index, item in enumerate(self._wanted) if any((job := self._job(index, item, there))[1:])]

    def finish(self) -> None:
        """Write the manifest."""
        self.entries = self.ledger.finish(self._known, (item.source.mask_path for item in self._wanted))

    def _job(self, index: int, item: Wanted, there: DirectoryIndex) -> Job:
        make, measure = [], []
        for k in item.ks:
            name = self.place.name(item.source, k)
            if not there.has(str(self.place.out / name)):
                make.append(k)
            elif name not in self._known:
                measure.append(k)
        beside = (str(path) for path, _ in self.place.beside(item.source))
        return Job(index, tuple(make), tuple(measure), not all(map(there.has, beside)))

    def _refuse_foreign(self, there: DirectoryIndex) -> None:
        for source, ks in self._wanted:
            for k in ks:
                name = self.place.name(source, k)
                if there.has(str(self.place.out / name)):
                    raise ValueError(
                        f"{self.place.out} must hold no candidates of another origin, got {name} without {self.ledger.settings_name}. "
                        "Choose another --out, or move them away."
                    )

    def _clear_unfinished(self) -> None:
        """Remove what a run that was killed in the middle of writing left behind. Of the data set's own folders nothing is touched."""
        kinds = (self.place.folder, MASKS, REALS) if self.place.placed else (self.place.folder,)
        folders = [self.place.out / subset / kind for subset in {item.source.subset for item in self._wanted} for kind in kinds]
        for folder, begins in [(self.place.out, f".{self.ledger.manifest.stem}"), *((folder, ".") for folder in folders)]:
            for name in os.listdir(folder) if folder.is_dir() else ():
                if name.startswith(begins) and UNFINISHED.fullmatch(name):
                    (folder / name).unlink(missing_ok=True)
