"""Make composites of photographs, the tiny family's or your own: python -m diffharmony.synthetic <train | test | real-test | photographs>

    python -m diffharmony.synthetic train --root .cache/tiny/data --photo-crops 4000 --scenes 3000 --workers 2
    python -m diffharmony.synthetic test --root .cache/tiny/test-256 --size 256
    python -m diffharmony.synthetic train --root data/mine --photos my_photos --photo-crops 2000 --scenes 0
    python -m diffharmony.synthetic test --root data/mine-test --photos my_photos --composites-per-range 10
    python -m diffharmony.synthetic real-test --root .cache/real-test
    python -m diffharmony.synthetic photographs
"""

from __future__ import annotations

import collections
import json
import logging
import sys
from pathlib import Path
from typing import Literal

import tyro

from .dataset import write_test_set, write_training_set
from .own_photographs import own_photographs
from .photographs import Photograph, find_photographs
from .real_test import find_real_photographs, write_real_test_set


def train(
    root: Path,
    photo_crops: int = 4000,
    scenes: int = 3000,
    composites_per_crop: int = 3,
    changes_per_mask: int = 1,
    size: int = 256,
    seed: int = 0,
    workers: int = 2,
    suffix: Literal[".jpg", ".png"] = ".jpg",
    photos: Path | None = None,
    held_out: float = 0.1,
    light: Literal["recolour", "real", "mixed"] = "recolour",
    smallest_crop: float = 0.35,
) -> None:
    """Write the training set. An interrupted run continues where it stopped.

    Example: python -m diffharmony.synthetic train --root .cache/tiny/data --photo-crops 4000 --scenes 3000

    Args:
        root: folder to write; made when missing.
        photo_crops: crops of photographs.
        scenes: procedural scenes, one composite each.
        composites_per_crop: masks of each crop.
        changes_per_mask: composites of each mask.
        size: side of the square pictures in pixels.
        seed: the same seed gives the same files.
        workers: processes.
        suffix: kind of the composite and real image files.
        photos: a folder of your own pictures, in the place of the installed ones.
        held_out: share of `photos` that `test` keeps and `train` leaves alone, chosen by name.
        light: recolour regions as an editor does, relight them as light changes (from not at all to strongly), or both.
        smallest_crop: shortest side of a crop, as a share of the photograph's short side.
    """
    counts = write_training_set(
        root,
        photo_crops=photo_crops,
        scenes=scenes,
        composites_per_crop=composites_per_crop,
        changes_per_mask=changes_per_mask,
        size=size,
        seed=seed,
        workers=workers,
        suffix=suffix,
        photographs=_own(photos, held_out, test=False),
        light=light,
        smallest_crop=smallest_crop,
    )
    print(json.dumps(counts))


def test(
    root: Path,
    size: int = 256,
    composites_per_range: int = 40,
    seed: int = 0,
    workers: int = 2,
    suffix: Literal[".jpg", ".png"] = ".png",
    photos: Path | None = None,
    held_out: float = 0.1,
) -> None:
    """Write a test set from photographs that are never trained on; sizes with one seed show the same composites.

    Example: python -m diffharmony.synthetic test --root .cache/tiny/test-256 --size 256

    Args:
        root: folder to write; made when missing.
        size: side of the square pictures in pixels, at most 512.
        composites_per_range: composites in each foreground range 0-5, 5-15 and 15-100 %.
        seed: the same seed gives the same files.
        workers: processes.
        suffix: kind of the composite and real image files.
        photos: a folder of your own pictures, in the place of the installed ones.
        held_out: share of `photos` that `test` keeps and `train` leaves alone, chosen by name.
    """
    counts = write_test_set(
        root,
        size=size,
        composites_per_range=composites_per_range,
        seed=seed,
        workers=workers,
        suffix=suffix,
        photographs=_own(photos, held_out, test=True),
    )
    print(json.dumps(counts))


def real_test(
    root: Path,
    composites: int = 12,
    seed: int = 0,
    workers: int = 2,
    suffix: Literal[".jpg", ".png"] = ".png",
    photos: Path | None = None,
    held_out: float = 0.1,
    cache: Path = Path(".cache/plasma-workspace-wallpapers"),
) -> None:
    """Write a test set of real photographs, each with regions relit in linear light from mildly to strongly, at 640 px.

    Example: python -m diffharmony.synthetic real-test --root .cache/real-test

    Args:
        root: folder to write; made when missing.
        composites: of each photograph.
        seed: the same seed gives the same files.
        workers: processes.
        suffix: kind of the composite and real image files.
        photos: a folder of your own pictures, in the place of Debian's plasma-workspace-wallpapers.
        held_out: share of `photos` that this command takes, as `test` does.
        cache: folder that Debian's package is downloaded to and unpacked in.
    """
    photographs = find_real_photographs(cache) if photos is None else own_photographs(photos, held_out=held_out, test=True)
    print(json.dumps(write_real_test_set(root, photographs, composites=composites, seed=seed, workers=workers, suffix=suffix)))


def _own(photos: Path | None, held_out: float, *, test: bool) -> tuple[Photograph, ...] | None:
    return None if photos is None else own_photographs(photos, held_out=held_out, test=test)


def photographs() -> None:
    """Print which pictures are used, and why the others are not.

    Example: python -m diffharmony.synthetic photographs
    """
    sets = find_photographs()
    for title, names in (("train", sets.train), ("test", sets.test)):
        print(f"{title}: {len(names)} photographs", dict(collections.Counter(name.split("/")[0] for name, _ in names)))
        for name, _ in names:
            print(f"  {name}")
    for title, reasons in (("not photographs", sets.not_photographs), ("duplicates", sets.duplicates)):
        print(f"{title}: {len(reasons)}")
        for name, reason in reasons.items():
            print(f"  {name}: {reason}")


def main(arguments: list[str] | None = None) -> None:
    """Run one command; errors in what the user gave end with their message and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"train": train, "test": test, "real-test": real_test, "photographs": photographs},
            args=arguments,
            prog="python -m diffharmony.synthetic",
            description=__doc__,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
