"""Composite, mask and real image from folders in iHarmony4's layout (SPEC §7)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..common.images import eight_bit, open_image
from .config import DataConfig


@dataclass(frozen=True)
class Pair:
    """Paths of one composite, its mask and its real image."""

    composite: Path
    mask: Path
    real: Path
    subset: str


def read_list(root: Path, list_file: str) -> list[Pair]:
    """The pairs that a list file names, in its order.

    Raises: FileNotFoundError when the root or list is missing, or a listed file is; ValueError for an empty list or a
    line that is no composite path. Source: SPEC §7.
    """
    path = root / list_file
    if not path.is_file():
        raise FileNotFoundError(f"list file {list_file!r} must exist, looked in {root.resolve()}. Check data.roots and data.list_file.")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            pairs.append(_pair(root, _composite_name(line.strip(), path, number), path, number))
    if not pairs:
        raise ValueError(f"{path} must name at least one composite, got none. Check that it is the right list.")
    return pairs


def _composite_name(line: str, path: Path, number: int) -> str:
    if path.suffix != ".jsonl":
        return line
    try:
        return json.loads(line)["file_name"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"line {number} of {path} must be a JSON object with file_name, got {line[:80]!r}. Mend the line.") from error


def _pair(root: Path, name: str, path: Path, number: int) -> Pair:
    composite = root / name
    parts = composite.stem.rsplit("_", 2)
    if len(parts) != 3 or composite.parent.name != "composite_images":
        raise ValueError(
            f"line {number} of {path} must be <subset>/composite_images/<a>_<m>_<k>.<suffix>, got {name!r}. Mend the line."
        )
    subset = composite.parent.parent
    image, mask, _ = parts
    real = _beside(subset / "real_images" / image, composite.suffix)
    return Pair(composite, _beside(subset / "masks" / f"{image}_{mask}", ".png"), real, subset.name)


def _beside(stem: Path, suffix: str) -> Path:
    """The file of this stem: of `suffix`, else of the other suffix that iHarmony4-like sets use."""
    for candidate in (suffix, ".jpg", ".png"):
        path = stem.with_name(stem.name + candidate)
        if path.is_file():
            return path
    raise FileNotFoundError(f"{stem.name}{suffix} must exist, looked in {stem.parent}. Complete the data set or mend its list.")


class ShuffledStream:
    """Endless passes over `length` items, each pass in an order of its own that depends on (seed, pass) only."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, counter: int) -> int:
        """The item at position `counter` of the stream."""
        epoch, position = divmod(counter, self.length)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(self.length))
        return int(self._order[1][position])


class HarmonizationDataset(Dataset):
    """Training samples by counter: counter c is sample c of an endless, shuffled stream.

    `dataset[c]` gives composite, real [3,S,S] float32 in [-1,1], mask [1,S,S] float32 in {0,1}, `seed` (an int of the
    sample's own, from which its noise is drawn), and the composite's path as `name`. Everything depends on (seed, c) only,
    so a run can go on from any step, on any number of processes.
    Raises (when read): ValueError for an unreadable image or sizes that differ, with the paths.
    """

    def __init__(self, config: DataConfig, seed: int):
        self.config, self.seed = config, seed
        self.pairs = [pair for root in config.roots for pair in read_list(Path(root), config.list_file)]
        self._stream = ShuffledStream(len(self.pairs), seed)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, counter: int) -> dict[str, torch.Tensor | int | str]:
        return self.view(self._stream[counter], np.random.default_rng((self.seed, 1, counter)))

    def view(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor | int | str]:
        """One cut of pair `index`, with crop, mirroring and noise seed drawn from `rng`."""
        pair = self.pairs[index]
        composite, real, mask = (_open(path).convert(mode) for path, mode in ((pair.composite, "RGB"), (pair.real, "RGB"), (pair.mask, "L")))
        if not composite.size == real.size == mask.size:
            raise ValueError(
                f"composite, real image and mask must have one size, got {composite.size}, {real.size}, {mask.size} for "
                f"{pair.composite}. Mend the data set."
            )
        box = draw_crop(np.asarray(mask) >= 128, self.config.min_crop, rng)
        mirrored = self.config.flip and rng.random() < 0.5
        side = (self.config.size, self.config.size)
        images = [image.resize(side, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0) for image in (composite, real)]
        mask = mask.resize(side, Image.Resampling.BILINEAR, box=box)
        if mirrored:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
            mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {
            "composite": to_tensor(images[0]),
            "real": to_tensor(images[1]),
            "mask": torch.from_numpy((np.array(mask) >= 128).astype(np.float32))[None],
            "seed": int(rng.integers(2**62)),
            "name": str(pair.composite),
        }


def draw_crop(foreground: np.ndarray, min_crop: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random crop (left, top, right, bottom) with a foreground pixel near its middle; the whole image for min_crop 1.

    foreground: [H, W] bool. A crop keeps the image's aspect, and its sides are min_crop to 1 of the image's.
    """
    height, width = foreground.shape
    if min_crop >= 1:
        return 0, 0, width, height
    scale = rng.uniform(min_crop, 1)
    w, h = width * scale, height * scale
    rows, columns = np.nonzero(foreground)
    if len(rows):
        pick = rng.integers(len(rows))
        centre = columns[pick] + rng.uniform(-0.3, 0.3) * w, rows[pick] + rng.uniform(-0.3, 0.3) * h
    else:
        centre = rng.uniform(0, width), rng.uniform(0, height)
    left, top = float(np.clip(centre[0] - w / 2, 0, width - w)), float(np.clip(centre[1] - h / 2, 0, height - h))
    return left, top, left + w, top + h


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> [3,H,W] float32 in [-1,1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1.0  # HWC -> CHW


def _open(path: Path) -> Image.Image:
    # the three pictures of a pair lie pixel on pixel: an EXIF orientation of one must not turn it
    return eight_bit(open_image(path, upright=False))


class CounterBatches:
    """Batch sampler: the counters of this process's share of every part of every step from `first_step` on.

    A step's `batch_size` counters are cut into `accumulation` parts, and each part over `processes`.
    """

    def __init__(self, *, batch_size: int, steps: int, first_step: int = 0, accumulation: int = 1, rank: int = 0, processes: int = 1):
        if batch_size % (accumulation * processes):
            raise ValueError(
                f"batch size must be a multiple of accumulation x processes = {accumulation * processes}, got {batch_size}. "
                "Change optim.batch_size."
            )
        self.batch_size, self.steps, self.first_step = batch_size, steps, first_step
        self.accumulation, self.rank, self.processes = accumulation, rank, processes

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // self.accumulation
        share = part // self.processes
        for step in range(self.first_step, self.steps):
            for index in range(self.accumulation):
                start = step * self.batch_size + index * part + self.rank * share
                yield list(range(start, start + share))


def make_loader(dataset: Dataset, batches: CounterBatches, workers: int) -> DataLoader:
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0, pin_memory=torch.cuda.is_available()
    )
