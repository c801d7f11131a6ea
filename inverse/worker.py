"""One process's share of making candidates: read ahead, draw, write, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..common.files import written_whole
from ..common.images import grey_mask, open_image, pil_to_mask, pil_to_tensor, read_picture, tensor_to_pil
from ..common.masks import THRESHOLD
from ..common.processes import processes
from ..dataset.layout import MASKS, REALS, composite_name, place
from ..dataset.pairs import BadImage
from ..dataset.same_files import same_file
from .candidates import candidate_seed, draw_candidates
from .manifest import Journal, Ledger
from .settings import Recipe
from .sources import Source

JPEG = {"quality": 95}  # as save_image
Outcome = tuple[int, int, dict[str, str]]


class Job(NamedTuple):
    """What is left to do for pair `index`: candidates to make, candidates that are there but in no record, and whether real image or mask
    are still to be placed."""

    index: int
    make: tuple[int, ...]
    measure: tuple[int, ...]
    place: bool


@dataclass(frozen=True)
class Place:
    """Where files go. placed: `out` is another folder than the data set's, and real images and masks go there as well."""

    out: Path
    folder: str
    suffix: str
    placed: bool

    def name(self, source: Source, k: int) -> str:
        """A candidate's path relative to `out`, with /. Raises: ValueError for names that do not go together."""
        return source.at(self.folder, composite_name(source.image, source.mask, k, self.suffix))

    def beside(self, source: Source) -> list[tuple[Path, Path]]:
        """Where the real image and the mask go, and what they are."""
        if not self.placed:
            return []
        return [(self.out / source.at(kind, file.name), file) for kind, file in ((REALS, source.real_file), (MASKS, source.mask_file))]


class _Pictures(NamedTuple):
    """A pair as it was read. pixels [H,W,3] uint8 are the real image's, inside [H,W] bool the mask's."""

    real: torch.Tensor
    mask: torch.Tensor
    pixels: np.ndarray
    inside: np.ndarray


def make_share(
    share: Sequence[tuple[Source, Job]],
    where: Place,
    vae: torch.nn.Module,
    unet: torch.nn.Module,
    recipe: Recipe,
    described: dict[str, Any],
    ledger: Ledger,
    *,
    skip: bool,
) -> Outcome:
    """Do these jobs. skip: leave pairs out whose images cannot be used, instead of stopping. Returns: how many candidates were made, how
    many could not be, and path -> why of the images that could not be used."""
    state = processes()
    made, left, bad = 0, 0, {}
    total = sum(len(job.make) for _, job in share)
    process = f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
    with (
        ledger.journal(state.process_index) as journal,
        tqdm(total=total, desc=f"Candidates{process}", unit="candidate", disable=not state.is_main_process, dynamic_ncols=True) as bar,
    ):
        for (source, job), read in _read_ahead(share):
            try:
                pictures = read()
            except BadImage as error:
                if not skip:
                    raise
                bad[str(error.path)] = str(error)
                left += len(job.make)
                bar.total -= len(job.make)
                continue
            made += _Pair(source, job, pictures, where, recipe, described, journal, bar).do(vae, unet)
    return made, left, bad


class _Pair:
    """One job at work."""

    def __init__(
        self, source: Source, job: Job, pictures: _Pictures, where: Place, recipe: Recipe, described: dict[str, Any], journal: Journal, bar
    ):
        self._source, self._job, self._pictures = source, job, pictures
        self._where, self._recipe, self._described, self._journal, self._bar = where, recipe, described, journal, bar

    def do(self, vae: torch.nn.Module, unet: torch.nn.Module) -> int:
        for target, file in self._where.beside(self._source):
            if not target.is_file():
                place(file, target)
            elif not same_file(file, target):
                raise ValueError(f"{target} must be a copy of {file}, got another file. Choose another --out.")
        (self._where.out / self._source.at(self._where.folder, "")).mkdir(parents=True, exist_ok=True)
        make = sorted({*self._job.make, *(k for k in self._job.measure if not self._measured(k))})
        if not make:
            return 0
        seeds = [self._seed(k) for k in make]
        recipe = self._recipe
        real, mask = self._pictures.real, self._pictures.mask
        drawn = draw_candidates(vae, unet, real, mask, seeds, steps=recipe.steps, size=recipe.size, device=recipe.device)
        for k, candidate in zip(make, drawn):
            picture = tensor_to_pil(candidate)[0]
            path = self._path(k)
            with written_whole(path) as temporary:
                picture.save(temporary, **(JPEG if recipe.suffix == ".jpg" else {}))
            self._record(k, picture if recipe.suffix == ".png" else open_image(path))
            self._bar.update()
        return len(make)

    def _measured(self, k: int) -> bool:
        """Record a candidate that is there; False for a file that is not whole, as after a power failure."""
        try:
            picture = open_image(self._path(k))
        except ValueError:
            return False
        if (picture.height, picture.width) != self._pictures.inside.shape:
            return False
        self._record(k, picture)
        return True

    def _record(self, k: int, picture: Image.Image) -> None:
        self._journal.add({
            "file_name": self._where.name(self._source, k),
            "real": self._source.real,
            "mask": self._source.mask_path,
            "k": k,
            "seed": self._seed(k),
            **{name: self._described[name] for name in ("steps", "size", "vae", "unet")},
            "distance": self._distance(picture),
            "score": None,
        })  # fmt: skip

    def _distance(self, picture: Image.Image) -> float:
        """fMSE between candidate and real image. Source: SPEC §8."""
        inside = self._pictures.inside
        difference = np.asarray(picture.convert("RGB"))[inside].astype(np.int64) - self._pictures.pixels[inside]
        return float((difference**2).sum() / (3 * inside.sum()))

    def _seed(self, k: int) -> int:
        return candidate_seed(self._recipe.seed, self._source.image, self._source.mask, k)

    def _path(self, k: int) -> Path:
        return self._where.out / self._where.name(self._source, k)


def _read_ahead(share: Sequence[tuple[Source, Job]]) -> Iterator[tuple[tuple[Source, Job], Callable[[], _Pictures]]]:
    """Each job with a call that gives its pictures; those of the next job are read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        reading = [reader.submit(_read, source) for source, _ in share[:1]]
        for position, item in enumerate(share):
            reading += [reader.submit(_read, source) for source, _ in share[position + 1 : position + 2]]
            yield item, reading.pop(0).result


def _read(source: Source) -> _Pictures:
    """Raises: BadImage."""
    real, mask_picture = _open(source.real_file).convert("RGB"), grey_mask(_open(source.mask_file))
    if mask_picture.size != real.size:
        raise BadImage(
            source.mask_file, f"{source.mask_file} must have its real image's size {real.size}, got {mask_picture.size}. Mend the data set."
        )
    mask = pil_to_mask(mask_picture)
    inside = (mask[0, 0] >= THRESHOLD).numpy()
    if not inside.any():
        raise BadImage(source.mask_file, f"{source.mask_file} must have foreground (at least half white), got none. Draw it, or remove it.")
    return _Pictures(pil_to_tensor(real), mask, np.asarray(real), inside)


def _open(path: Path) -> Image.Image:
    try:
        return read_picture(path)
    except (FileNotFoundError, ValueError) as error:
        raise BadImage(path, str(error)) from error
