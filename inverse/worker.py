"""One process's part of making candidates: read ahead, draw, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..common.files import written_whole
from ..common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture, tensor_to_pil
from ..common.masks import check_foreground, warn_if_dull
from ..common.processes import processes
from ..dataset.layout import MASKS, REALS, composite_name
from ..dataset.pairs import BadImage
from ..dataset.same_files import place_once
from .candidates import candidate_seed, draw_candidates
from .settings import Recipe
from .sources import Source

JPEG = {"quality": 95}  # as save_image
Job = tuple[Source, Sequence[int]]  # a pair, and the numbers of the candidates to make of it
Outcome = tuple[int, int, dict[str, str]]


@dataclass(frozen=True)
class OutputPaths:
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


def make_candidates_of(
    jobs: Sequence[Job], where: OutputPaths, vae: torch.nn.Module, unet: torch.nn.Module, recipe: Recipe, *, skip: bool
) -> Outcome:
    """Do these jobs. skip: leave pairs out whose images cannot be used, instead of stopping. Returns: how many candidates were made, how
    many could not be, and path -> why of the images that could not be used."""
    state = processes()
    made, left, bad = 0, 0, {}
    total = sum(len(ks) for _, ks in jobs)
    process = f", process 1 of {state.num_processes}" if state.num_processes > 1 else ""
    with tqdm(total=total, desc=f"Candidates{process}", unit="candidate", disable=not state.is_main_process, dynamic_ncols=True) as bar:
        for (source, ks), read in _read_ahead(jobs):
            try:
                real, mask = read()
            except BadImage as error:
                if not skip:
                    raise
                bad[str(error.path)] = str(error)
                left += len(ks)
                bar.total -= len(ks)
                continue
            for target, file in where.beside(source):
                place_once(file, target)
            if not ks:
                continue
            (where.out / source.at(where.folder, "")).mkdir(parents=True, exist_ok=True)
            seeds = [candidate_seed(recipe.seed, source.image, source.mask, k) for k in ks]
            drawn = draw_candidates(vae, unet, real, mask, seeds, steps=recipe.steps, size=recipe.size, device=recipe.device)
            for k, candidate in zip(ks, drawn):
                with written_whole(where.out / where.name(source, k)) as temporary:
                    tensor_to_pil(candidate)[0].save(temporary, **(JPEG if where.suffix == ".jpg" else {}))
                made += 1
                bar.update()
    return made, left, bad


def _read_ahead(jobs: Sequence[Job]) -> Iterator[tuple[Job, Callable[[], tuple[torch.Tensor, torch.Tensor]]]]:
    """Each job with a call that gives its images; those of the next job are read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        reading = [reader.submit(_read, source) for source, _ in jobs[:1]]
        for position, job in enumerate(jobs):
            reading += [reader.submit(_read, source) for source, _ in jobs[position + 1 : position + 2]]
            yield job, reading.pop(0).result


def _read(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Real image [1,3,H,W] in -1..1 and mask [1,1,H,W] in 0..1. Raises: BadImage."""
    path = source.real_file
    try:
        real = read_picture(path).convert("RGB")
        path = source.mask_file
        mask_picture = read_mask(path)
        if mask_picture.size != real.size:
            raise ValueError(f"{path} must have its real image's size {real.size}, got {mask_picture.size}. Mend the data set.")
        mask = pil_to_mask(mask_picture)
        check_foreground(mask, name=str(path))
    except (FileNotFoundError, ValueError) as error:
        raise BadImage(path, str(error)) from error
    warn_if_dull(mask, str(path))
    return pil_to_tensor(real), mask
