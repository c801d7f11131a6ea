"""Images per second of our training loader, as a ratio to the authors' dataset pattern with as many workers.

    python -m diffharmony.applications.benchmarks.loader --out out/loader.json
    python -m diffharmony.applications.benchmarks.loader --sizes 256 --workers 8 --images 480

The pattern (SPEC, Source B): per sample, open composite, mask and real image with Pillow, convert them ("RGB", "1"), mirror half,
resize each with torchvision, make floating tensors and normalise them; a torch DataLoader collates them. What the authors do
besides, dilating the mask and tokenizing a caption, is left out, to its advantage. Both read the same JPEGs and masks, written for
the run from scikit-image's and scikit-learn's photographs at the sizes of iHarmony4's subsets, with grain, so that they take the bytes
that camera pictures take, and both give floating batches in this process.

A figure is the median over `repeats` passes, which the two take in turn after one that is not timed; starting the workers is not
part of it. "images per second" is by the clock on the wall. "images per CPU second" counts the time that this process and the workers
had a core, and holds on a machine that does other things too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._main import cpu_seconds, run_benchmark

PICTURES = {"small": (640, 480), "middle": (1024, 768), "large": (2048, 1536)}
# HCOCO's pictures are COCO's, of 640 x 480; HFlickr's and Hday2night's are larger, HAdobe5k's by far (shares: SPEC §7)
MIXED = {"small": 0.58, "middle": 0.12, "large": 0.30}
GRAIN = 3.0  # standard deviation, of 255
REFERENCE, OURS = "authors' pattern", "diffharmony"


@dataclass(frozen=True)
class LoaderBenchmark:
    """Images per second of our training loader beside the authors' dataset pattern."""

    sizes: tuple[int, ...] = (256, 512)
    """Sides that the images are trained on."""
    images: int = 96
    """Composites that are written; a multiple of the batch size."""
    rounds: int = 2
    """Times that a pass reads each: the longer a pass, the less its beginning and end weigh."""
    batch_size: int = 16
    workers: int = 2
    """Processes that read images, for either loader."""
    repeats: int = 5
    """Timed passes of each loader."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: LoaderBenchmark) -> list[dict[str, Any]]:
    """Returns: per data set and size {"pictures", "size", "ratio", "cpu_ratio", "images_per_second": {loader: value},
    "images_per_cpu_second": {loader: value}}; those of CPU time are None where the system does not tell it.

    Raises: ValueError for numbers that do not fit.
    """
    from tqdm import tqdm

    for name in ("images", "rounds", "batch_size", "workers", "repeats"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}. Leave it out for a steady figure.")
    if config.images % config.batch_size:
        raise ValueError(f"images must be a multiple of the batch size {config.batch_size}, got {config.images}. Choose a multiple.")
    kinds = {**{kind: {kind: 1.0} for kind in PICTURES}, "mixed as in iHarmony4": MIXED}
    results = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(kinds) * (1 + len(config.sizes)), desc="Benchmark") as bar:
        for number, (kind, shares) in enumerate(kinds.items()):
            root = Path(folder) / str(number)
            write_pictures(root, shares, config.images)
            bar.update()
            for size in config.sizes:
                results.append({"pictures": _described(kind), "size": size, **_measure(root, size, config)})
                bar.update()
    return results


def write_pictures(root: Path, shares: dict[str, float], count: int) -> None:
    """A data set in iHarmony4's layout of `count` composites, of PICTURES' sizes by their `shares`, with its IHD_train.txt."""
    from PIL import Image, ImageDraw
    from skimage import data
    from sklearn.datasets import load_sample_image

    sources = [Image.fromarray(pixels) for pixels in (
        load_sample_image("china.jpg"), load_sample_image("flower.jpg"), data.astronaut(), data.chelsea(), data.coffee(), data.rocket(),
    )]  # fmt: skip
    for folder in ("composite_images", "masks", "real_images"):
        (root / "Photos" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(list(shares), _counts(shares, count)))
    names = []
    for number, kind in enumerate(kinds):
        width, height = PICTURES[kind]
        picture = sources[number % len(sources)].resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, GRAIN, (height, width, 1))
        real = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
        mask = Image.new("L", (width, height))
        left, top = rng.uniform(0, 0.6, 2) * (width, height)
        ImageDraw.Draw(mask).ellipse((left, top, left + 0.4 * width, top + 0.4 * height), fill=255)
        composite = np.where(np.asarray(mask)[..., None] > 0, (real * 0.7).astype(np.uint8), real)
        for folder, image, name in (
            ("composite_images", Image.fromarray(composite), f"a{number}_1_1.jpg"),
            ("real_images", Image.fromarray(real), f"a{number}.jpg"),
            ("masks", mask, f"a{number}_1.png"),
        ):
            image.save(root / "Photos" / folder / name, quality=92)
        names.append(f"Photos/composite_images/a{number}_1_1.jpg\n")
    (root / "IHD_train.txt").write_text("".join(names), encoding="utf-8")


def _counts(shares: dict[str, float], count: int) -> np.ndarray:
    return np.diff(np.round(np.cumsum([0, *shares.values()]) * count)).astype(int)


def _described(kind: str) -> str:
    return "{} x {}".format(*PICTURES[kind]) if kind in PICTURES else kind


def _measure(root: Path, size: int, config: LoaderBenchmark) -> dict[str, Any]:
    from ...common.devices import keep_freed_memory
    from ...train.config import DataConfig
    from ...train.data.batches import make_loader
    from ...train.data.dataset import HarmonizationDataset
    from ...train.data.sampler import BatchSampler

    keep_freed_memory()  # as the training loop does on a CPU
    dataset = HarmonizationDataset(DataConfig(roots=(root,), size=size), seed=0)
    images = config.images * config.rounds
    batches = BatchSampler(batch_size=config.batch_size, steps=images // config.batch_size)
    loaders = {REFERENCE: _reference(root, size, config), OURS: make_loader(dataset, batches, config.workers)}
    passes: dict[str, list[tuple[float, float | None]]] = {name: [] for name in loaders}
    for repeat in range(config.repeats + 1):
        for name, loader in loaders.items():
            taken = _seconds(loader, images)
            if repeat:
                passes[name].append(taken)
    wall, cpu = (
        {name: None if None in column else images / statistics.median(column) for name, column in columns.items()}
        for columns in ({name: [taken[kind] for taken in rows] for name, rows in passes.items()} for kind in (0, 1))
    )
    return {
        "ratio": wall[OURS] / wall[REFERENCE],
        "cpu_ratio": None if cpu[OURS] is None else cpu[OURS] / cpu[REFERENCE],
        "images_per_second": wall,
        "images_per_cpu_second": cpu,
    }


def _seconds(loader: Iterable[dict[str, Any]], images: int) -> tuple[float, float | None]:
    """What one pass takes by the clock on the wall, and in CPU time."""
    start, cpu = time.perf_counter(), cpu_seconds()
    read = sum(len(batch["composite"]) for batch in loader)
    taken = time.perf_counter() - start, None if cpu is None else cpu_seconds() - cpu
    if read != images:
        raise RuntimeError(f"a pass must read {images} images, got {read}. Report this.")
    return taken


def _reference(root: Path, size: int, config: LoaderBenchmark):
    from torch.utils.data import DataLoader

    from ...dataset.pairs import read_list

    dataset = _Pattern(read_list(root, "IHD_train.txt") * config.rounds, size)
    return DataLoader(dataset, batch_size=config.batch_size, shuffle=True, num_workers=config.workers, persistent_workers=True)


class _Pattern:
    """The authors' way to read a sample, in our words (Source B, without its dilation of the mask)."""

    def __init__(self, pairs: list, size: int):
        self.pairs, self.size = pairs, size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image
        from torchvision.transforms import functional as TF

        pair = self.pairs[index]
        opened = [Image.open(path).convert(mode) for path, mode in ((pair.composite, "RGB"), (pair.real, "RGB"), (pair.mask, "1"))]
        if np.random.rand() > 0.5:
            opened = [TF.hflip(image) for image in opened]
        composite, real, mask = (TF.to_tensor(TF.resize(image, [self.size, self.size])) for image in opened)
        return {
            "composite": TF.normalize(composite, [0.5], [0.5]),
            "real": TF.normalize(real, [0.5], [0.5]),
            "mask": (mask >= 0.5).float(),
            "name": str(pair.composite),
        }


def table(results: list[dict[str, Any]]) -> str:
    """Ratios to the authors' pattern as text."""
    from ...evaluation.tables import number, text_table

    return text_table(
        ["pictures", "trained at", "images per second ×", "images per CPU second ×"],
        [[case["pictures"], f"{case['size']} px", number(case["ratio"]), number(case["cpu_ratio"])] for case in results],
    )


def main() -> None:
    run_benchmark(LoaderBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
