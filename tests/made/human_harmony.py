"""Tables and folders in the shape of imaterialist-fashion-2020-fgvc7, made up; and its run-length code the other way round."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = ("ImageId", "EncodedPixels", "Height", "Width", "ClassId", "AttributesIds")
ROWS = 333_401  # of the real table, and its photographs
PHOTOGRAPHS = 45_623


def encode(mask: np.ndarray) -> str:
    """A mask [H, W] bool as "start length" pairs, counted from 1 down the columns; pixel by pixel."""
    pairs, start = [], None
    height, width = mask.shape
    for position in range(height * width + 1):
        inside = position < height * width and bool(mask[position % height, position // height])
        if inside and start is None:
            start = position
        elif not inside and start is not None:
            pairs.append(f"{start + 1} {position - start}")
            start = None
    return " ".join(pairs)


def row(name: str, mask: np.ndarray, class_id: object = 1, attributes: str = "115,136,143") -> dict[str, object]:
    return dict(zip(HEADER, (name, encode(mask), *mask.shape, class_id, attributes)))


def write_table(path: Path, rows: list[dict[str, object]], header=HEADER, *, bom: bool = False, line_end: str = "\n") -> Path:
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator=line_end, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def box(height: int, width: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def write_photograph(path: Path, height: int, width: int, seed: int = 0) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def write_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def name_of(index: int) -> str:
    return f"{index * 2654435761 % 2**128:032x}"


def write_large(folder: Path, rows: int = ROWS, photographs: int = PHOTOGRAPHS) -> None:
    """train.csv with so many rows of some twenty runs, and the folder train with links to one photograph."""
    (folder / "train").mkdir()
    height, width = 120, 90
    only = write_photograph(folder / "only.jpg", height, width)
    for index in range(photographs):
        os.link(only, folder / "train" / f"{name_of(index)}.jpg")
    codes = [" ".join(f"{column * height + 11 + shift} {70 - shift}" for column in range(10, 80, 4)) for shift in range(30)]
    with (folder / "train.csv").open("w") as file:
        file.write(",".join(HEADER) + "\n")
        for number in range(rows):
            name = name_of(number * photographs // rows)
            file.write(f'{name},{codes[number % 30]},{height},{width},{number % 46},"115,136,{number % 341}"\n')
