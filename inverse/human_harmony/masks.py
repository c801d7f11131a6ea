"""Photographs and masks placed in iHarmony4's layout: each whole or not at all, none twice (SPEC §7)."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.files import written_whole
from ...common.pictures import open_image
from ...dataset.layout import MASKS, REALS, place
from ...dataset.same_files import same_file
from ..sources import Source
from .photographs import SUFFIXES
from .subjects import PixelMask, Subject


def placed_name(subject: Subject) -> str:
    """The file name of a photograph in the data set: its own, with the suffix .jpg or .png."""
    return subject.name + (".png" if subject.photograph.suffix.lower() == SUFFIXES[-1] else SUFFIXES[0])


def place_subjects(subjects: Iterable[Subject], out: Path, subset: str, *, workers: int = 2) -> Iterator[tuple[Source, float, Path]]:
    """Write `<subset>/masks/<name>_<m>.png`, 0 and 255, and place `<subset>/real_images/<name>.jpg` (or .png), for each as it comes.

    What is there already is left. workers: threads; a few subjects are in memory at once.
    Yields: where they lie, the foreground's share, and the photograph's own file, in order.
    Raises: ValueError where another photograph or mask of that name is there.
    """
    reals, masks = (out / subset / kind for kind in (REALS, MASKS))
    for folder in (reals, masks):
        folder.mkdir(parents=True, exist_ok=True)
    placed, written = set(os.listdir(reals)), set(os.listdir(masks))
    waiting: deque[tuple[Subject, Source, Future[bytes | None]]] = deque()

    def finish(subject: Subject, source: Source, encoding: Future[bytes | None]) -> tuple[Source, float, Path]:
        png = encoding.result()
        if source.real_file.name not in placed:
            place(subject.photograph, source.real_file)
            placed.add(source.real_file.name)
        # not in the threads: written_whole looks at the umask, which a process has one of
        if png is not None:
            with written_whole(source.mask_file) as temporary:
                temporary.write_bytes(png)
        return source, subject.mask.share, subject.photograph

    with ThreadPoolExecutor(workers) as pool:
        for subject in subjects:
            name, mask_name = subject.name, subject.mask_name
            source = Source(subset, name, mask_name, reals / placed_name(subject), masks / f"{name}_{mask_name}.png")
            known = source.real_file.name in placed, source.mask_file.name in written
            waiting.append((subject, source, pool.submit(_encoded, subject, source, *known)))
            if len(waiting) > 2 * workers:
                yield finish(*waiting.popleft())
        while waiting:
            yield finish(*waiting.popleft())


def _encoded(subject: Subject, source: Source, placed: bool, written: bool) -> bytes | None:
    """The mask's PNG; None where it is there already."""
    if placed and not same_file(subject.photograph, source.real_file):
        raise ValueError(f"{source.real_file} must be a copy of {subject.photograph}, got another file. Choose another --out.")
    if written:
        # masks of runs are told apart by the digest of their CSV, which the folder is claimed with
        if isinstance(subject.mask, PixelMask) and not np.array_equal(np.asarray(open_image(source.mask_file)), subject.mask.values):
            raise ValueError(f"{source.mask_file} must be of the mask that the folder was begun with, got another. Choose another --out.")
        return None
    png = io.BytesIO()
    Image.fromarray(subject.mask.pixels()).save(png, format="PNG")
    return png.getvalue()
