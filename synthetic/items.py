"""One item of the data: a real image with its masks and composites, drawn from a seed and saved."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..common.files import written_whole
from ..common.pictures import HALF
from .photographs import Photograph, load_photograph
from .recolor import (
    HIGHEST_FMSE,
    LARGEST_CLIPPED_SHARE,
    change_light,
    foreground_mse,
    from_linear,
    is_usable,
    to_linear,
    transfer_colours,
)  # fmt: skip
from .regions import LARGEST_SHARE, SMALLEST_SHARE, RegionPainter
from .relight import draw_relighting, region_places, relight
from .scenes import draw_scene

TRANSFER_PROBABILITY = 0.25
LIGHTS = ("recolour", "real", "mixed")
REAL_SHARE = 0.7  # of the changes where the light is "mixed"
DEVELOPED_SHARE = 0.5  # of the crops in real or mixed light are, as a whole, in another light than the file's
DEVELOPED_STRENGTH = 0.7
TEST_DRAWING_SIZE = 512
# A little inside SPEC section 8's ranges, so that reducing a mask does not carry it over a border.
TEST_RANGES = ((0.01, 0.046), (0.054, 0.144), (0.156, 0.5))
_STREAMS = {"TrainingCrop": 1, "TrainingScene": 2, "TestItem": 3, "RealTestItem": 4}
_CROPS = 20
_CHANGES_PER_REGION = 6


@dataclasses.dataclass(frozen=True)
class DrawnItem:
    """What every item has; the subclass says how it is drawn. `number` and `seed` decide all its random choices."""

    subset: str
    name: str
    number: int
    size: int
    seed: int
    suffix: str

    def __post_init__(self):
        if self.suffix not in (".jpg", ".png"):
            raise ValueError(f'suffix must be ".jpg" or ".png", got "{self.suffix}". Choose one of these.')
        if self.size < 32:
            raise ValueError(f"size must be at least 32, got {self.size}. Choose the picture's side in pixels.")

    def generator(self) -> np.random.Generator:
        """The item's own generator, the same in every process."""
        key = (_STREAMS[type(self).__name__], self.number)
        return np.random.default_rng(np.random.SeedSequence(entropy=self.seed, spawn_key=key))

    def draw(self) -> DrawnImages:
        """Draw the item."""
        raise NotImplementedError


@dataclasses.dataclass
class Composite:
    """One composite: `image` [H,W,3] uint8, `mask` [H,W] uint8 0..255, and what was done. `again`: the mask is that of the one before."""

    image: np.ndarray
    mask: np.ndarray
    region: str
    change: str
    again: bool = False


@dataclasses.dataclass
class DrawnImages:
    """A real image [H,W,3] uint8, its composites, and the source picture's name."""

    real: np.ndarray
    composites: list[Composite]
    source: str


@dataclasses.dataclass(frozen=True)
class TrainingCrop(DrawnItem):
    """A random crop of `photographs[0]`; the second photograph gives colours for transfers. `composites` masks, each changed
    `changes` times."""

    photographs: tuple[Photograph, Photograph]
    composites: int
    changes: int = 1
    light: str = "recolour"
    smallest_crop: float = 0.35

    def __post_init__(self):
        super().__post_init__()
        if self.light not in LIGHTS:
            raise ValueError(f"light must be one of {', '.join(LIGHTS)}, got {self.light!r}. Choose one of these.")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop must lie in (0, 1], got {self.smallest_crop}. 1 takes the largest square.")

    def draw(self) -> DrawnImages:
        generator = self.generator()
        picture = load_photograph(self.photographs[0].path)
        other = load_photograph(self.photographs[1].path)
        for _ in range(_CROPS):
            real = _crop(picture, generator, self.size, smallest=self.smallest_crop)
            if generator.random() < 0.5:
                real = np.ascontiguousarray(real[:, ::-1])
            if self.light != "recolour" and generator.random() < DEVELOPED_SHARE:
                real = _developed(real, generator)
            painter = RegionPainter(real)
            composites: list[Composite] = []
            wanted = self.composites * self.changes
            for _ in range(4 * self.composites):
                if len(composites) == wanted:
                    break
                changed = _recoloured(
                    painter, other, generator, SMALLEST_SHARE, LARGEST_SHARE, hard=generator.random() < 0.5, changes=self.changes,
                    light=self.light,
                )  # fmt: skip
                if len(changed) == self.changes:
                    composites += changed
            if len(composites) == wanted:
                return DrawnImages(real, composites, self.photographs[0].name)
        raise RuntimeError(
            f"photograph {self.photographs[0].name} must allow {self.composites} composites, got fewer in {_CROPS} crops. "
            "Leave it out."
        )


@dataclasses.dataclass(frozen=True)
class TrainingScene(DrawnItem):
    """A procedural scene."""

    def draw(self) -> DrawnImages:
        generator = self.generator()
        while True:
            scene = draw_scene(self.size, generator)
            if scene is None:
                continue
            fmse = foreground_mse(scene.composite, scene.real, scene.mask)
            share = float((scene.mask >= HALF).mean())
            if SMALLEST_SHARE <= share <= LARGEST_SHARE and is_usable(fmse, 0.0):
                composite = Composite(scene.composite, scene.mask, "object", "relit")
                return DrawnImages(scene.real, [composite], "scene")


@dataclasses.dataclass(frozen=True)
class TestItem(DrawnItem):
    """One composite of a test photograph with a share in `TEST_RANGES[share_range]`; `turn` picks the photograph."""

    __test__ = False  # not a pytest class

    photographs: tuple[Photograph, ...]
    share_range: int
    turn: int

    def draw(self) -> DrawnImages:
        # The order of the photographs depends on seed and range alone, so no photograph comes twice in a range.
        key = (_STREAMS["TestItem"], 1_000_000 + self.share_range)
        shuffler = np.random.default_rng(np.random.SeedSequence(entropy=self.seed, spawn_key=key))
        order = shuffler.permutation(len(self.photographs))
        source = self.photographs[order[self.turn]]
        other = self.photographs[order[(self.turn + 1) % len(order)]]
        generator = self.generator()
        picture, reference = load_photograph(source.path), load_photograph(other.path)
        for _ in range(20 * _CROPS):
            real = _crop(picture, generator, TEST_DRAWING_SIZE, smallest=0.8)
            low, high = TEST_RANGES[self.share_range]
            recoloured = _recoloured(RegionPainter(real), reference, generator, low, high, hard=True)
            if not recoloured:
                continue
            drawn = recoloured[0]
            real = _resize(real, self.size)
            mask = np.where(_resize(drawn.mask, self.size) >= HALF, 255, 0).astype(np.uint8)
            # `whole` is the recoloured picture without its mask: reducing first and masking last keeps the background exact.
            image = np.where(mask[..., None] == 255, _resize(drawn.whole, self.size), real)
            return DrawnImages(real, [Composite(image, mask, drawn.region, drawn.change)], source.name)
        raise RuntimeError(f"photograph {source.name} must allow a test composite, got none. Leave it out.")


@dataclasses.dataclass(kw_only=True)
class _Recoloured(Composite):
    """A composite and `whole` [H,W,3] uint8, the picture with the change applied around the region too."""

    whole: np.ndarray


def save_item(root: Path, item: DrawnItem) -> list[dict]:
    """Draw an item and save its files; return one record per composite for composites.jsonl."""
    drawn = item.draw()
    folder = root / item.subset
    write_bytes(folder / "real_images" / f"{item.name}{item.suffix}", _encoded(drawn.real, item.suffix))
    records = []
    mask_number = change_number = 0
    for composite in drawn.composites:
        mask_number, change_number = (mask_number, change_number + 1) if composite.again else (mask_number + 1, 1)
        mask_name = f"{item.name}_{mask_number}"
        file = folder / "composite_images" / f"{mask_name}_{change_number}{item.suffix}"
        if not composite.again:
            write_bytes(folder / "masks" / f"{mask_name}.png", _encoded(composite.mask, ".png"))
        write_bytes(file, _encoded(composite.image, item.suffix))
        records.append(
            {
                "file_name": f"{item.subset}/composite_images/{file.name}",
                "source": drawn.source,
                "region": composite.region,
                "change": composite.change,
                "foreground_share": round(float((composite.mask >= HALF).mean()), 5),
                "fmse": round(foreground_mse(composite.image, drawn.real, composite.mask), 2),
            }
        )
    return records


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with written_whole(file) as temporary:
        temporary.write_bytes(content)


def _recoloured(
    painter: RegionPainter, other: np.ndarray, generator: np.random.Generator, low: float, high: float, *, hard: bool, changes: int = 1,
    light: str = "recolour",
) -> list[_Recoloured]:
    """Recolour one region of the painter's picture `changes` times; fewer, or none, when no region or no usable change was found.

    Args:
        other: [H,W,3] uint8, another photograph.
        low, high: limits of the region's share.
        hard: make the mask 0 or 255, without a soft edge.
        light: of LIGHTS, the sort of change.
    """
    drawn = painter.draw(generator, low, high)
    if drawn is None:
        return []
    soft, region = drawn
    mask = np.where(soft >= 0.5, 255, 0).astype(np.uint8) if hard else np.round(soft * 255).astype(np.uint8)
    weight = mask[..., None].astype(np.float32) / 255
    real = painter.image.astype(np.float32) / 255
    # Edge pixels need changed colours too; the colours around serve the reduced test sets.
    touched = _grown(mask > 0)
    found: list[_Recoloured] = []
    real_light = light == "real" or (light == "mixed" and generator.random() < REAL_SHARE)
    if real_light:
        places = region_places(mask >= HALF, touched)
    for _ in range(_CHANGES_PER_REGION * changes):
        changed, change, clipped = (
            relight(real[touched], places, generator) if real_light else _change(real[touched], other, generator)
        )
        whole = real.copy()
        whole[touched] = changed
        image = np.round((real + (whole - real) * weight) * 255).astype(np.uint8)
        fmse = foreground_mse(image, painter.image, mask)
        usable = fmse <= HIGHEST_FMSE and clipped <= LARGEST_CLIPPED_SHARE if real_light else is_usable(fmse, clipped)
        if usable:
            found.append(_Recoloured(image, mask, region, change, bool(found), whole=np.round(whole * 255).astype(np.uint8)))
            if len(found) == changes:
                break
    return found


def _change(colours: np.ndarray, other: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, str, float]:
    """Draw the kind of change and apply it; arguments and results as in `change_light`."""
    if generator.random() >= TRANSFER_PROBABILITY:
        return change_light(colours, generator)
    height, width = other.shape[:2]
    high, wide = (max(8, round(side * generator.uniform(0.15, 0.6))) for side in (height, width))
    top, left = int(generator.integers(height - high + 1)), int(generator.integers(width - wide + 1))
    reference = other[top : top + high : 2, left : left + wide : 2].reshape(-1, 3).astype(np.float32) / 255
    return transfer_colours(colours, reference, generator)


def _developed(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The whole picture, [H,W,3] uint8, with another white balance, exposure and contrast, so that what is right in it is not known
    from the picture alone; as it was where more than a little of it would clip."""
    colours = picture.reshape(-1, 3).astype(np.float32) / 255
    drawn = draw_relighting(generator, DEVELOPED_STRENGTH * generator.random())
    light = dataclasses.replace(drawn, gradient=np.zeros(2), bounce=np.zeros(3), haze_cover=0.0).apply(to_linear(colours), np.zeros((1, 2)))
    if ((light > 1.0) & (colours < 0.996)).any(axis=-1).mean() > LARGEST_CLIPPED_SHARE / 3:
        return picture
    return np.round(from_linear(np.clip(light, 0, 1)) * 255).astype(np.uint8).reshape(picture.shape)


def _grown(region: np.ndarray, by: int = 6) -> np.ndarray:
    return ndimage.maximum_filter(region, size=2 * by + 1)


def _crop(picture: np.ndarray, generator: np.random.Generator, size: int, smallest: float) -> np.ndarray:
    """Cut a random square whose side is smallest..1 of the short side and resize it: [size,size,3] uint8."""
    height, width = picture.shape[:2]
    side = round(min(height, width) * generator.uniform(smallest, 1.0))
    left, top = int(generator.integers(width - side + 1)), int(generator.integers(height - side + 1))
    return _resize(picture[top : top + side, left : left + side], size)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Lanczos, antialiased when reducing: [H,W] or [H,W,3] uint8 to size x size."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def _encoded(image: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=4)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
