"""What an evaluation measures: one method's images against the real ones, and all methods together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..common.images import read_picture
from ..common.pictures import HALF, check_marked, dull, grey_mask
from ..common.text import pluralize
from ..dataset.pairs import Pair
from ..dataset.predictions import PROBLEMS, PredictionFolder, names_of, size_fits
from .baselines import BASELINES
from .comparison import LEVEL, compare, intervals
from .conventions import Convention, Side, find_convention
from .metrics import RANGES, Measurement, Target, foreground_box, measure_target, range_of, summarize, to_side

logger = logging.getLogger("diffharmony")

DAMAGED_SHOWN = 5  # real images and masks that an error names
Outcome = Measurement | str  # a member of PROBLEMS where there is nothing to measure


@dataclass
class Method:
    """One folder of predictions or one baseline, and what came of it. Lists are in the order of the data set's list."""

    label: str
    folder: Path | None = None
    baseline: str | None = None
    files: list[Path | None] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def find(self, pairs: Sequence[Pair], names: Sequence[str]) -> None:
        """Fill `files`. Raises: ValueError for a folder that holds none of them."""
        if self.folder is None:
            self.files = [pair.composite if pair.composite.is_file() else None for pair in pairs]
            return
        found, self.extra = PredictionFolder(self.folder).match(pairs)
        self.files = [None if name is None else self.folder / name for name in found]
        if not any(found):
            raise ValueError(
                f"{self.folder} must hold predictions named like the composites, {pairs[0].composite.stem}.png or .jpg for the "
                f"first, got none of the {len(pairs)}. Check folder and list."
            )

    def picture(self, index: int, real: Image.Image, mask: Image.Image, size: int | None) -> Image.Image | str:
        """The prediction for image `index`, or which of PROBLEMS there is."""
        path = self.files[index]
        if path is None:
            return "missing"
        try:
            found = read_picture(path)
        except (OSError, ValueError):
            return "unreadable"
        if not size_fits(found.size, real.size, size):
            return "wrong_size"
        if self.baseline in (None, "composite"):
            return found
        if found.size != mask.size:
            return "wrong_size"
        return Image.fromarray(BASELINES[self.baseline](np.asarray(found.convert("RGB")), np.asarray(mask.convert("L")) >= HALF))

    def file_name(self, index: int) -> str:
        path = self.files[index]
        return "" if path is None else path.name if self.folder is None else path.relative_to(self.folder).as_posix()


@dataclass
class Evaluation:
    """One run: what is measured, how, and per method and image what came of it."""

    data: str
    list_file: str
    convention: str
    real_background: bool | None
    size: int | None
    pairs: list[Pair]
    methods: list[Method]
    workers: int
    names: list[str] = field(init=False)
    damaged: dict[Path, str] = field(default_factory=dict)
    """Real images and masks that cannot be used: what must hold of each."""
    unmarked: dict[Path, str] = field(default_factory=dict)
    """Masks without foreground: what must hold of each."""
    dull: dict[Path, str] = field(default_factory=dict)
    """Masks well under white: what becomes of each."""

    def __post_init__(self):
        self.names = names_of(self.pairs)
        if self.real_background is None:
            self.real_background = find_convention(self.convention).real_background

    def measure(self, progress: bool) -> None:
        """Fill every method's outcomes. The composites of one real image are one piece of work: it is read and resized once.

        Masks without foreground are warned of. Raises: ValueError naming the real images and masks that cannot be used, or where no mask
        has any foreground.
        """
        pieces: dict[Path, list[int]] = {}
        for index, pair in enumerate(self.pairs):
            pieces.setdefault(pair.real, []).append(index)
        for method in self.methods:
            method.outcomes = ["missing"] * len(self.pairs)
        # threads: Pillow and numpy let go of the interpreter's lock while they work, and nothing need be sent to and fro
        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [pool.submit(self._measure_piece, indices) for indices in pieces.values()]
            with tqdm(total=len(self.pairs), desc="Measuring", unit="image", disable=not progress, dynamic_ncols=True) as bar:
                for future in as_completed(futures):
                    for index, outcomes in future.result().items():
                        for method, outcome in zip(self.methods, outcomes):
                            method.outcomes[index] = outcome
                        bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
        if self.damaged:
            raise ValueError(_some(self.damaged))
        if self.dull:
            logger.warning("%s well under white: %s", pluralize(len(self.dull), "mask"), _some(self.dull, 1))
        if self.unmarked:
            masks = {pair.mask for pair in self.pairs}
            if len(self.unmarked) == len(masks):
                raise ValueError(f"at least one of {pluralize(len(masks), 'mask')} must have foreground, got none. {_some(self.unmarked, 1)}")
            logger.warning("%s of %d without foreground: %s", pluralize(len(self.unmarked), "mask"), len(masks), _some(self.unmarked, 1))

    def _measure_piece(self, indices: list[int]) -> dict[int, list[Outcome]]:
        rules, side = find_convention(self.convention), to_side(self.size)
        real = self._read(self.pairs[indices[0]].real)
        masks = {path: self._mask(path) for path in dict.fromkeys(self.pairs[index].mask for index in indices)}
        for path, mask in masks.items():
            if real and mask and mask.size != real.size:
                self.damaged[path] = f"{path} must have its real image's size {real.size}, got {mask.size}. Mend the data set."
        if self.damaged:
            return {}  # the rest is looked through for more such files, not measured
        targets = {path: self._target(real, mask, rules, side) for path, mask in masks.items()}
        found: dict[int, list[Outcome]] = {}
        for index in indices:
            path = self.pairs[index].mask
            mask, target = masks[path], targets[path]
            pictures = [method.picture(index, real, mask, self.size) for method in self.methods]
            found[index] = [
                one if isinstance(one, str) else measure_target(one, target, rules, self.size, self.real_background) for one in pictures
            ]
        return found

    def _read(self, path: Path) -> Image.Image | None:
        """A picture of the data set; None for one that joins `damaged`."""
        try:
            return read_picture(path)
        except (OSError, ValueError) as error:
            self.damaged[path] = str(error)
            return None

    def _mask(self, path: Path) -> Image.Image | None:
        """A mask, in the mode that conventions dither; its transparency where that is the mask. Otherwise as _read; joins `unmarked`."""
        picture = self._read(path)
        if picture is None:
            return None
        try:
            grey = grey_mask(picture, path)
        except ValueError as error:
            self.damaged[path] = str(error)
            return None
        try:
            check_marked(grey, path)
        except ValueError as error:
            self.unmarked[path] = str(error)
        else:
            if words := dull(path, grey.getextrema()[1]):
                self.dull[path] = words
        transparent = "A" in picture.getbands() or picture.mode == "P" and "transparency" in picture.info
        return grey if transparent else picture

    def _target(self, real: Image.Image, mask: Image.Image, rules: Convention, side: Side) -> Target:
        weights = rules.mask(mask, side)
        box = foreground_box(weights, rules, self.real_background)
        cut = weights if box is None else weights[box[1] : box[3], box[0] : box[2]]
        return Target(rules.image(real, side, box), cut, box, weights.size)

    def result(self, resamples: int, seed: int, progress: bool) -> dict[str, Any]:
        """What evaluate() returns. Raises: ValueError for a method of which nothing could be measured."""
        tables = [self._table(method, resamples, seed) for method in self.methods]
        measured = {method.label: [None if isinstance(one, str) else one for one in method.outcomes] for method in self.methods}
        subsets = [pair.subset for pair in self.pairs]
        have = [[one is not None for one in found] for found in measured.values()]
        return {
            "command": "evaluate",
            "convention": self.convention,
            "real_background": self.real_background,
            "size": self.size,
            "data": self.data,
            "list": self.list_file,
            **{key: tables[0][key] for key in ("overall", "subsets", "ranges")},
            "predictions": tables,
            "same_images": all(one == have[0] for one in have),
            "comparisons": compare(measured, subsets, resamples=resamples, seed=seed, progress=progress) if resamples else [],
            "bootstrap": {"resamples": resamples, "level": LEVEL, "seed": seed},
        }

    def _table(self, method: Method, resamples: int, seed: int) -> dict[str, Any]:
        problems = {name: [] for name in PROBLEMS}
        measured: list[tuple[int, Measurement]] = []
        for index, outcome in enumerate(method.outcomes):
            if isinstance(outcome, Measurement):
                measured.append((index, outcome))
            else:
                problems[outcome].append(self.names[index] if outcome == "missing" else method.file_name(index))
        problems["extra"] = method.extra
        if not measured:
            named = {kind: found for kind, found in problems.items() if found and kind != "extra"}
            counts = ", ".join(f"{len(found)} {kind.replace('_', ' ')} (first: {found[0]})" for kind, found in named.items())
            place = method.folder or method.label
            raise ValueError(f"{place} must hold predictions that can be measured, got {counts}. Write them again.")

        def means(belongs: Callable[[int, Measurement], bool]) -> dict[str, float | int | None]:
            return summarize(item for index, item in measured if belongs(index, item))

        def names(lacks: Callable[[Measurement], bool]) -> list[str]:
            return [self.names[index] for index, item in measured if lacks(item)]

        subsets = sorted({self.pairs[index].subset for index, _ in measured})
        return {
            "label": method.label,
            "folder": None if method.folder is None else str(method.folder),
            "baseline": method.baseline,
            "overall": means(lambda index, item: True),
            "intervals": intervals([item for _, item in measured], resamples=resamples, seed=seed) if resamples else None,
            "subsets": {name: means(lambda index, item: self.pairs[index].subset == name) for name in subsets},
            "ranges": {name: means(lambda index, item: range_of(item.foreground) == name) for name in RANGES},
            **problems,
            "without_foreground": names(lambda item: item.foreground == 0),
            "without_psnr": names(lambda item: math.isnan(item.psnr)),
        }


def _some(reasons: dict[Path, str], shown: int = DAMAGED_SHOWN) -> str:
    """The first of what there is to say of files."""
    named = [reasons[path] for path in sorted(reasons)]
    more = f" And {len(named) - shown} more such files." if len(named) > shown else ""
    return " ".join(named[:shown]) + more
