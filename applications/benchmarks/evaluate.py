"""Images per second of `evaluate`, beside a thread pool of Pillow and scikit-image calls that measures by the same convention.

    python -m diffharmony.applications.benchmarks evaluate --workers 2
    python -m diffharmony.applications.benchmarks evaluate --conventions diffharmony hdnet --scale 40 --out out/bench-evaluate.json

Both measure the same made-up photographs with the same number of threads, in turn in one process; a ratio is the median of
`repeats` turns' ratios, after one turn that is not timed and in which both must give the same figures. That of "images/s" is by the
clock on the wall; that of "images/CPU s" counts the time that the threads had a core, and holds on a machine that does other things
too. The data sets:

- iHarmony4: its test list's shares of subsets, composites of one photograph (HAdobe5k 5, Hday2night 5, HFlickr 2, HCOCO mostly 1)
  and median sizes, at 1/scale of its 7404 composites; predictions of 512 px, as written by a model.
- single: one composite for each photograph of 640 x 480, predictions of 256 px: nothing can be shared, and what both must do,
  decoding the three files, is nearly half of the reference's time by "diffharmony".
- side by side: the same with four folders of predictions; each is a pass of its own for the reference.

An image is one prediction measured.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._main import run_benchmark

# composites, photographs, width and height of iHarmony4's test list by subset (medians)
IHARMONY4 = {
    "HAdobe5k": (2160, 432, 4288, 2848),
    "HCOCO": (4283, 3417, 640, 427),
    "HFlickr": (828, 444, 1024, 683),
    "Hday2night": (133, 24, 640, 480),
}
FIGURES = ("MSE", "PSNR", "fMSE")


@dataclass(frozen=True)
class EvaluateBenchmark:
    """Images per second of `evaluate`, beside a thread pool of Pillow and scikit-image calls."""

    conventions: tuple[str, ...] = ("diffharmony", "is2am")
    """Conventions to measure by."""
    workers: int = 2
    """Threads of both."""
    scale: int = 100
    """The made-up iHarmony4 has 1/scale of its composites."""
    count: int = 120
    """Composites of the data sets "single" and "side by side"."""
    repeats: int = 5
    """Timed turns."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: EvaluateBenchmark) -> list[dict[str, Any]]:
    """Returns: per data set and convention {"data", "convention", "workers", "images", "ratio", "ratios", "cpu_ratio",
    "images_per_second", "reference"}, the last two being absolute.

    Raises: ValueError for options that do not fit; RuntimeError when the two disagree.
    """
    from tqdm import tqdm

    for name in ("workers", "scale", "count", "repeats"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}. Leave it out for the default.")
    for convention in config.conventions:
        if convention not in REFERENCES:
            raise ValueError(f"conventions must be of {', '.join(REFERENCES)}, got {convention!r}. No reference is written for others.")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        plain = {"Photos": (config.count, config.count, 640, 480)}
        small = {
            name: (math.ceil(composites / config.scale), math.ceil(reals / config.scale), width, height)
            for name, (composites, reals, width, height) in IHARMONY4.items()
        }
        cases = {"iHarmony4": (small, 1, 512), "single": (plain, 1, 256), "side by side": (plain, 4, 256)}
        with tqdm(total=len(cases) * (1 + len(config.conventions)), desc="Benchmark", file=sys.stderr, dynamic_ncols=True) as bar:
            for name, (subsets, folders, side) in cases.items():
                root = Path(folder, name)
                predictions = _make(root, subsets, folders, side)
                bar.update()
                for convention in config.conventions:
                    results.append({"data": name, **_measure_case(root, predictions, convention, config)})
                    bar.update()
    return results


def _make(root: Path, subsets: dict[str, tuple[int, int, int, int]], folders: int, side: int) -> list[Path]:
    """Photographs, soft-edged masks and predictions from scikit-image's pictures. Returns: the folders of predictions."""
    import numpy as np
    import skimage.data
    from PIL import Image, ImageDraw, ImageFilter

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())]
    predictions = [root / f"predictions{number}" for number in range(folders)]
    for place in predictions:
        place.mkdir(parents=True)
    names = []
    for letter, (subset, (composites, reals, width, height)) in zip("abcd", subsets.items()):
        for kind in ("composite_images", "masks", "real_images"):
            (root / subset / kind).mkdir(parents=True)
        for number in range(composites):
            index = number * reals // composites  # composites of one photograph follow each other
            stem, mask_stem = f"{letter}{index}_1_{number}", f"{letter}{index}_1"
            real_path, mask_path = root / subset / "real_images" / f"{letter}{index}.jpg", root / subset / "masks" / f"{mask_stem}.png"
            if not real_path.exists():
                real = photos[index % len(photos)].resize((width, height), Image.Resampling.BICUBIC)
                real.save(real_path, quality=95)
                mask = Image.new("L", (width, height))
                x, y, r = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.3)
                ImageDraw.Draw(mask).ellipse(((x - r) * width, (y - r) * height, (x + r) * width, (y + r) * height), fill=255)
                mask.filter(ImageFilter.GaussianBlur(1)).save(mask_path)
            small = np.asarray(Image.open(real_path).resize((side, side)), dtype=np.float64)
            for place in predictions:
                changed = small * rng.uniform(0.8, 1.1, 3) + rng.normal(0, 2, small.shape)
                Image.fromarray(changed.clip(0, 255).astype(np.uint8)).save(place / f"{stem}.png")
            names.append(f"{subset}/composite_images/{stem}.jpg")
    (root / "IHD_test.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return predictions


def _measure_case(root: Path, predictions: list[Path], convention: str, config: EvaluateBenchmark) -> dict[str, Any]:
    from ...evaluation import evaluate

    def ours() -> list[dict[str, float]]:
        # intervals are no part of what the reference does
        result = evaluate(root, predictions=predictions, convention=convention, workers=config.workers, resamples=0, progress=False)
        return [table["overall"] for table in result["predictions"]]

    def reference() -> list[dict[str, float]]:
        return [_reference(root, folder, convention, config.workers) for folder in predictions]

    for mine, theirs in zip(ours(), reference()):
        if any(not math.isclose(mine[figure], theirs[figure], rel_tol=1e-4) for figure in FIGURES):
            raise RuntimeError(f"the two must agree by {convention}, got {mine} and {theirs}. One of them measures another convention.")
    seconds = [(_seconds(ours), _seconds(reference)) for _ in range(config.repeats)]
    images = len((root / "IHD_test.txt").read_text(encoding="utf-8").splitlines()) * len(predictions)
    ratios, cpu_ratios = ([theirs[clock] / mine[clock] for mine, theirs in seconds] for clock in (0, 1))
    return {
        "convention": convention,
        "workers": config.workers,
        "images": images,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(cpu_ratios),
        "images_per_second": images / statistics.median(mine for (mine, _), _ in seconds),
        "reference": images / statistics.median(theirs for _, (theirs, _) in seconds),
    }


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """What a call takes by the clock on the wall, and of this process's CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - cpu


def _reference(root: Path, folder: Path, convention: str, workers: int) -> dict[str, float]:
    """A thread pool over composites, Pillow and scikit-image in each: how evaluation scripts are written. Means over images."""
    def one(line: str) -> tuple[float, float, float]:
        subset, _, name = line.split("/")
        photo, mask, _ = name.split("_")
        real, region = root / subset / "real_images" / f"{photo}.jpg", root / subset / "masks" / f"{photo}_{mask}.png"
        return REFERENCES[convention](folder / name.replace(".jpg", ".png"), real, region)

    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(one, (root / "IHD_test.txt").read_text(encoding="utf-8").splitlines()))
    return {figure: statistics.fmean(column) for figure, column in zip(FIGURES, zip(*rows))}


def _pillow_reference(prediction: Path, real: Path, mask: Path) -> tuple[float, float, float]:
    import numpy as np
    from PIL import Image
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

    def resized(path: Path, mode: str) -> Any:
        picture = Image.open(path).convert(mode)
        picture = picture if picture.size == (256, 256) else picture.resize((256, 256), Image.Resampling.BILINEAR)
        return np.array(picture, dtype=np.float32)

    predicted, truth, region = resized(prediction, "RGB"), resized(real, "RGB"), resized(mask, "1")[..., None]
    predicted = predicted * region + truth * (1 - region)
    mse = mean_squared_error(predicted, truth)
    psnr = peak_signal_noise_ratio(truth, predicted, data_range=255)
    fmse = mean_squared_error(predicted * region, truth * region) * region.size / region.sum()
    mean_squared_error(predicted * (1 - region), truth * (1 - region))  # bMSE, 0 where the background is pasted
    return mse, psnr, fmse


def _linear_reference(prediction: Path, real: Path, mask: Path) -> tuple[float, float, float]:
    import numpy as np
    from PIL import Image
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
    from skimage.transform import resize

    def resized(path: Path, mode: str) -> Any:
        values = np.array(Image.open(path).convert(mode), dtype=np.float32)
        if values.shape[:2] == (256, 256):
            return values
        return resize(values, (256, 256), order=1, mode="edge", anti_aliasing=False, preserve_range=True)

    predicted, truth, weight = resized(prediction, "RGB"), resized(real, "RGB"), resized(mask, "L")[..., None] / 255
    mse = mean_squared_error(predicted, truth)
    psnr = peak_signal_noise_ratio(truth, predicted, data_range=truth.max())
    root = np.sqrt(weight)
    fmse = mean_squared_error(predicted * root, truth * root) * weight.size / weight.sum()
    root = np.sqrt(1 - weight)
    mean_squared_error(predicted * root, truth * root)  # bMSE
    return mse, psnr, fmse


REFERENCES: dict[str, Callable[[Path, Path, Path], tuple[float, float, float]]] = {
    "diffharmony": _pillow_reference,
    "hdnet": _pillow_reference,  # equal where the real background is pasted in
    "is2am": _linear_reference,
}


def table(results: list[dict[str, Any]]) -> str:
    """Ratios to the reference as text."""
    from ...evaluation.tables import number, text_table

    rows = []
    for row in results:
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        rows.append([row["data"], row["convention"], str(row["images"]), str(row["workers"]), number(row["ratio"]), spread, number(row["cpu_ratio"])])
    return text_table(["data", "convention", "images", "workers", "images/s ×", "range", "images/CPU s ×"], rows)


def main() -> None:
    run_benchmark(EvaluateBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
