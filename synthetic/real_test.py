"""A test set of real photographs, relit in linear light: what a compositor's pasted object looks like, and what training never sees.

The photographs are those of Debian's package plasma-workspace-wallpapers (its drawings are left out) and scikit-learn's two.

    <root>/Photos/{composite_images,masks,real_images}   IHD_test.txt   composites.jsonl   synthetic.json
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import check_numbers, write_items
from .items import Composite, DrawnImages, DrawnItem
from .photographs import TEST_FILES, Photograph, package_folder
from .recolor import foreground_mse, from_linear, to_linear
from .regions import RegionPainter
from .relight import Relighting, light_gains, region_places

PACKAGE = "plasma-workspace-wallpapers"
# The package's photographs, by folder; the others are drawings, renderings, or black and white.
CHOSEN = (
    "BytheWater", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Kite", "OneStandsOut", "Path", "summer_1am",
)  # fmt: skip
PATTERN = "usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
LONGER_SIDE = 640
SMALLEST, LARGEST = 0.01, 0.5
LOWEST_FMSE, HIGHEST_FMSE, LARGEST_CLIPPED = 8.0, 8000.0, 0.25
MILDEST, STRONGEST = 0.15, 2.0
_TRIES = 400


def find_real_photographs(cache: Path) -> tuple[Photograph, ...]:
    """The test photographs, by name; the package is downloaded and unpacked into `cache`, without being installed.

    Raises: FileNotFoundError where it cannot be had: no Debian, no network, or other files than expected.
    """
    unpacked = cache / "unpacked"
    if not unpacked.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True, capture_output=True, text=True)
            package = next(cache.glob(f"{PACKAGE}_*.deb"))
            subprocess.run(["dpkg", "-x", package.name, "unpacked"], cwd=cache, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
            raise FileNotFoundError(
                f"Debian's package {PACKAGE} must be downloadable, got an error ({' '.join(why)}). Unpack it yourself into {unpacked} with dpkg -x."
            ) from error
    found = [Photograph(f"{PACKAGE}/{name}", str(unpacked / PATTERN.format(name=name))) for name in CHOSEN]
    found += [
        Photograph(f"{package}/{name}", str(package_folder(package, inside) / name)) for package, inside, names in TEST_FILES for name in names
    ]
    missing = [photograph.path for photograph in found if not Path(photograph.path).is_file()]
    if missing:
        raise FileNotFoundError(f"test photographs must be there, got {len(missing)} missing, the first {missing[0]}. Delete {cache} and run again.")
    return tuple(found)


def write_real_test_set(
    root: Path, photographs: tuple[Photograph, ...], *, composites: int = 12, seed: int = 0, workers: int = 2, suffix: str = ".png"
) -> dict[str, int]:
    """Write `composites` of each photograph, at 640 px, with one region relit by white balance, exposure and contrast.

    Strengths are spread evenly from mild to strong, shares of the region log-uniform in 1..50 %. Masks are 0 or 255, and the
    background equals the real image's.
    Returns: {"photographs": ..., "items": ..., "composites": ...}. Raises: ValueError as `write_training_set` does.
    """
    check_numbers(composites=composites, workers=workers)
    items = [
        RealTestItem(
            subset="Photos", name=f"r{index:02d}x{turn:02d}", number=index * 1000 + turn, size=LONGER_SIDE, seed=seed, suffix=suffix,
            photograph=photograph, turn=turn, turns=composites,
        )
        for index, photograph in enumerate(photographs)
        for turn in range(composites)
    ]  # fmt: skip
    settings = dict(kind="real-test", composites=composites, size=LONGER_SIDE, seed=seed, suffix=suffix)
    settings["photographs"] = [photograph.name for photograph in photographs]
    return write_items(root, items, "IHD_test.txt", settings, workers)


@dataclasses.dataclass(frozen=True)
class RealTestItem(DrawnItem):
    """One composite of a photograph; `turn` of `turns` says how strong the change is."""

    photograph: Photograph
    turn: int
    turns: int

    def draw(self) -> DrawnImages:
        generator = self.generator()
        real = _loaded(self.photograph.path, self.size)
        painter = RegionPainter(real)
        for _ in range(_TRIES):
            drawn = painter.draw(generator, SMALLEST, LARGEST)
            if drawn is None:
                continue
            inside = drawn[0] >= 0.5
            place = (self.turn + generator.random()) / self.turns
            relighting = _drawn_relighting(generator, MILDEST * (STRONGEST / MILDEST) ** place)
            colours = real[inside].astype(np.float32) / 255
            light = relighting.apply(to_linear(colours), region_places(inside, inside))
            composite = real.copy()
            composite[inside] = np.round(from_linear(np.clip(light, 0, 1)) * 255)
            mask = np.where(inside, 255, 0).astype(np.uint8)
            clipped = ((light > 1) & (colours < 0.996)).any(axis=-1).mean()
            if LOWEST_FMSE <= foreground_mse(composite, real, mask) <= HIGHEST_FMSE and clipped <= LARGEST_CLIPPED:
                return DrawnImages(real, [Composite(composite, mask, drawn[1], json.dumps(relighting.kinds))], self.photograph.name)
        raise RuntimeError(f"photograph {self.photograph.name} must allow a test composite, got none. Leave it out.")


def _drawn_relighting(generator: np.random.Generator, strength: float) -> Relighting:
    """White balance, exposure and contrast together: another distribution than that which is trained on."""
    return Relighting(
        gains=light_gains(float(np.clip(generator.normal(0, 60 * strength), -100, 180)), generator.normal(0, 0.08 * strength)),
        exposure=float(generator.normal(0, 0.6 * strength)),
        contrast=float(np.exp(generator.normal(0, 0.2 * strength))),
        in_stops=bool(generator.random() < 0.5),
        kinds=("white balance", "exposure", "contrast"),
    )


def _loaded(path: str, side: int) -> np.ndarray:
    """[H,W,3] uint8, the longer side reduced to `side`."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    scale = side / max(picture.size)
    if scale < 1:
        picture = picture.resize(tuple(round(value * scale) for value in picture.size), Image.Resampling.LANCZOS)
    return np.asarray(picture)
