"""Write the synthetic data in the iHarmony4 layout (SPEC section 7).

    <root>/<Subset>/composite_images/<a>_<m>_<k>.jpg   masks/<a>_<m>.png   real_images/<a>.jpg
    <root>/IHD_train.txt or IHD_test.txt               composites, root-relative, one a line
    <root>/composites.jsonl                            one object per composite: source, kinds, share, fMSE
    <root>/synthetic.json                              the settings, so that a folder is never filled with two sorts of data

Every item is seeded by (seed, stream, number), so the bytes depend neither on the number of workers nor on interruptions.
The lists are written last: a folder that has its list is complete.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import shutil
from pathlib import Path

from tqdm import tqdm

from ..common.run_folder import claim
from .items import DrawnItem, TestItem, TrainingCrop, TrainingScene, save_item, write_bytes
from .photographs import Photograph, find_photographs

_UNFINISHED = ".items"
FEW = 48  # items that are drawn sooner than another process has started


def write_training_set(
    root: str | os.PathLike,
    *,
    photo_crops: int,
    scenes: int,
    composites_per_crop: int = 3,
    changes_per_mask: int = 1,
    size: int = 256,
    seed: int = 0,
    workers: int = 2,
    suffix: str = ".jpg",
    photographs: tuple[Photograph, ...] | None = None,
    light: str = "recolour",
    smallest_crop: float = 0.35,
) -> dict[str, int]:
    """Write subsets `Photos` (crops of the training photographs, one region recoloured) and `Scenes` (one object relit).

    Args:
        root: folder, made when missing; an interrupted run is continued.
        photo_crops: number of crops, dealt evenly over the photographs.
        scenes: number of procedural scenes, one composite each.
        composites_per_crop: masks of each crop.
        changes_per_mask: composites of each mask.
        size: side of the square pictures in pixels.
        seed: same seed, same bytes.
        workers: processes; 1 works in this process.
        suffix: ".jpg" (quality 95, full colour resolution) or ".png" for composites and real images.
        photographs: instead of all training photographs.
        light: how regions of photographs are changed: "recolour" (chains of edits and colour transfers, visible ones only), "real"
            (relit in linear light, from no change at all to strong ones, half of the crops developed anew as a whole), or "mixed".
        smallest_crop: shortest side of a crop, as a share of the photograph's short side.

    Returns:
        {"photographs": ..., "items": ..., "composites": ...}.

    Raises:
        ValueError: a number is out of range, or the folder holds data made with other settings.
    """
    check_numbers(photo_crops=photo_crops, scenes=scenes, lowest=0)
    if not photo_crops + scenes:
        raise ValueError("photo_crops + scenes must be at least 1, got 0. Ask for some of either.")
    check_numbers(composites_per_crop=composites_per_crop, changes_per_mask=changes_per_mask, workers=workers)
    if photographs is None:
        photographs = find_photographs().train if photo_crops else ()
    if photo_crops and not photographs:
        raise ValueError("photographs must be at least one picture, got none. Leave it out to use the installed ones.")
    common = dict(size=size, seed=seed, suffix=suffix)
    items = [
        TrainingCrop(
            subset="Photos",
            name=f"p{number:06d}",
            number=number,
            photographs=(photographs[number % len(photographs)], photographs[(number * 7 + 3) % len(photographs)]),
            composites=composites_per_crop,
            changes=changes_per_mask,
            light=light,
            smallest_crop=smallest_crop,
            **common,
        )
        for number in range(photo_crops)
    ]
    items += [TrainingScene(subset="Scenes", name=f"s{number:06d}", number=number, **common) for number in range(scenes)]
    settings = dict(kind="train", photo_crops=photo_crops, scenes=scenes, composites_per_crop=composites_per_crop, **common)
    settings["changes_per_mask"] = None if changes_per_mask == 1 else changes_per_mask  # folders from before it was an option have none
    if light != "recolour":
        settings["light"] = light
    if smallest_crop != 0.35:
        settings["smallest_crop"] = smallest_crop
    settings["photographs"] = [photograph.name for photograph in photographs]
    return write_items(Path(root), items, "IHD_train.txt", settings, workers)


def write_test_set(
    root: str | os.PathLike,
    *,
    size: int,
    seed: int = 0,
    composites_per_range: int = 40,
    workers: int = 2,
    suffix: str = ".png",
    photographs: tuple[Photograph, ...] | None = None,
) -> dict[str, int]:
    """Write the subset `Photos` from the test photographs: as many composites in each foreground range 0-5, 5-15, 15-100 %.

    Everything is drawn at 512 pixels and reduced, so sets of 128, 256 and 512 pixels with one seed show the same composites.
    Masks are 0 or 255 and the background equals the real image's exactly. A photograph is used at most once per range.

    Args:
        root, seed, workers, photographs: as in `write_training_set`, the photographs being the test ones.
        size: side in pixels, at most 512.
        composites_per_range: composites in each of the three ranges.
        suffix: ".png" keeps composites and real images lossless.

    Returns, Raises:
        As `write_training_set`.
    """
    check_numbers(composites_per_range=composites_per_range, workers=workers)
    if not 32 <= size <= 512:
        raise ValueError(f"size must be 32..512, got {size}. Test composites are drawn at 512 pixels and reduced.")
    if photographs is None:
        photographs = find_photographs().test
    if composites_per_range > len(photographs):
        raise ValueError(
            f"composites_per_range must be at most the number of photographs ({len(photographs)}), got "
            f"{composites_per_range}. Each photograph is used once per range: ask for fewer."
        )
    items = [
        TestItem(
            subset="Photos",
            name=f"t{share_range}{number:04d}",
            number=share_range * 10_000 + number,
            size=size,
            seed=seed,
            suffix=suffix,
            photographs=photographs,
            share_range=share_range,
            turn=number,
        )
        for share_range in range(3)
        for number in range(composites_per_range)
    ]
    settings = dict(kind="test", size=size, seed=seed, suffix=suffix, composites_per_range=composites_per_range)
    settings["photographs"] = [photograph.name for photograph in photographs]
    return write_items(Path(root), items, "IHD_test.txt", settings, workers)


def write_items(root: Path, items: list[DrawnItem], list_name: str, settings: dict, workers: int) -> dict[str, int]:
    root.mkdir(parents=True, exist_ok=True)
    claim(root, settings, "synthetic.json", "--root")
    list_file, records_file, unfinished = root / list_name, root / "composites.jsonl", root / _UNFINISHED
    if not list_file.exists():
        for item in items:
            for folder in ("composite_images", "masks", "real_images"):
                (root / item.subset / folder).mkdir(parents=True, exist_ok=True)
            (unfinished / item.subset).mkdir(parents=True, exist_ok=True)
        missing = [item for item in items if not _record_file(root, item).exists()]
        for item, records in _drawn(root, missing, workers):
            write_bytes(_record_file(root, item), json.dumps(records).encode())
        records = [record for item in items for record in json.loads(_record_file(root, item).read_text())]
        write_bytes(records_file, "".join(json.dumps(record) + "\n" for record in records).encode())
        write_bytes(list_file, "".join(record["file_name"] + "\n" for record in records).encode())
    shutil.rmtree(unfinished, ignore_errors=True)
    composites = len(list_file.read_text().splitlines())
    return {"photographs": len(settings["photographs"]), "items": len(items), "composites": composites}


def _drawn(root: Path, items: list[DrawnItem], workers: int):
    """Draw and save the items, many of them in `workers` processes; yield (item, records) as they are done."""
    bar = tqdm(total=len(items), desc=str(root.name), unit="item", mininterval=1.0)
    with bar:
        if workers == 1 or len(items) < FEW:
            for item in items:
                yield item, save_item(root, item)
                bar.update()
            return
        # Spawned, not forked: a parent that has run torch holds threads that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            waiting = {}
            queue = iter(items)
            for item in queue:
                waiting[pool.submit(save_item, root, item)] = item
                if len(waiting) < 8 * workers:
                    continue
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
                    bar.update()
            for future in concurrent.futures.as_completed(list(waiting)):
                yield waiting[future], future.result()
                bar.update()


def _record_file(root: Path, item: DrawnItem) -> Path:
    return root / _UNFINISHED / item.subset / f"{item.name}.json"


def check_numbers(lowest: int = 1, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {number}. Give a larger number.")
