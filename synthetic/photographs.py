"""Where the photographs come from, which pictures count as photographs, and which are near-duplicates.

Training and test pictures come from different packages, all installed with the development environment:

    train   scikit-image's CC0 / public-domain colour photographs, and the thumbnails of
            comfyui-workflow-templates-media-image, -media-other, -media-video (MIT)
    test    comfyui-workflow-templates-media-api, -media-assets-01, scikit-learn's china.jpg and flower.jpg

The same picture is sometimes in two packages, so every training picture that nearly equals a test picture is dropped.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

MINIMUM_SIDE = 256  # pixels; smaller pictures would be enlarged too much
LARGEST_SHORT_SIDE = 768  # pixels; larger pictures are reduced to this when loaded

_TEMPLATES = "templates"
TRAINING_FOLDERS = (
    ("comfyui_workflow_templates_media_image", _TEMPLATES),
    ("comfyui_workflow_templates_media_other", _TEMPLATES),
    ("comfyui_workflow_templates_media_video", _TEMPLATES),
)
# The colour photographs in scikit-image's wheel whose docstrings say CC0 or public domain. The Middlebury motorcycle pair is not.
TRAINING_FILES = (("skimage", "data", ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),)
TEST_FOLDERS = (
    ("comfyui_workflow_templates_media_api", _TEMPLATES),
    ("comfyui_workflow_templates_media_assets_01", _TEMPLATES),
)
TEST_FILES = (("sklearn", "datasets/images", ("china.jpg", "flower.jpg")),)

# Two pictures are near-duplicates above these likenesses (see `likeness`). The border between training and test is stricter:
# edited versions of one picture (relit, another colour) must not be on both sides.
SAME_SET_LIKENESS = 0.95
ACROSS_SETS_LIKENESS = 0.55


class Photograph(NamedTuple):
    """A picture file: `name` is `<package>/<file name>`, `path` is where it is on this machine."""

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class PhotographSets:
    """The chosen photographs, and the names of those that were left out and why."""

    train: tuple[Photograph, ...]
    test: tuple[Photograph, ...]
    not_photographs: dict[str, str]
    duplicates: dict[str, str]


@functools.cache
def find_photographs() -> PhotographSets:
    """Find, filter and separate the training and the test photographs; sorted by name, the same on every machine. Looked for once in a process.

    Raises:
        FileNotFoundError: a package is not installed.
    """
    not_photographs: dict[str, str] = {}
    duplicates: dict[str, str] = {}
    test = _without_duplicates(_photographs_in(TEST_FOLDERS, TEST_FILES, not_photographs), duplicates)
    train = _without_duplicates(_photographs_in(TRAINING_FOLDERS, TRAINING_FILES, not_photographs), duplicates)
    train = _apart_from(train, test, duplicates)
    return PhotographSets(
        train=tuple(photograph for photograph, _ in train),
        test=tuple(photograph for photograph, _ in test),
        not_photographs=not_photographs,
        duplicates=duplicates,
    )


def load_photograph(path: str) -> np.ndarray:
    """Read a picture (the first frame of an animated one) as [H,W,3] uint8, short side at most 768 pixels."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    scale = LARGEST_SHORT_SIDE / min(picture.size)
    if scale < 1:
        size = tuple(max(LARGEST_SHORT_SIDE, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture)


def reason_to_reject(picture: Image.Image) -> str | None:
    """Say why a picture is no use as a photograph (too small, a logo, a diagram, black and white), or None when it is fine.

    Args:
        picture: any mode; its first frame is judged.
    """
    if min(picture.size) < MINIMUM_SIDE:
        return f"short side {min(picture.size)} px is less than {MINIMUM_SIDE}"
    if max(picture.size) > 3 * min(picture.size):
        return f"shape {picture.size[0]} x {picture.size[1]} is a strip"
    if "A" in picture.mode and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        return "it is transparent in places"
    small = np.asarray(picture.convert("RGB").resize((96, 96), Image.Resampling.BOX), dtype=np.int32)
    # 16 levels a channel: a flat background falls into few cells, a photographed one into many.
    cells = (small >> 4) @ np.array([256, 16, 1])
    counts = np.sort(np.bincount(cells.ravel()))[::-1] / cells.size
    if counts[0] > 0.42:
        return f"one colour covers {counts[0]:.0%}"
    if counts[:6].sum() > 0.62:
        return f"six colours cover {counts[:6].sum():.0%}"
    colours = int((counts > 0.0005).sum())
    if colours < 45:
        return f"it has only {colours} colours"
    chroma = (small.max(axis=-1) - small.min(axis=-1)) / 255
    if chroma.mean() < 0.035:
        return f"its mean chroma {chroma.mean():.3f} is that of a black and white picture"
    luminance = small.mean(axis=-1)
    if luminance.mean() < 22:
        return f"its mean luminance {luminance.mean():.0f} is too dark to judge a change of light"
    if (small > 247).all(axis=-1).mean() + (small < 8).all(axis=-1).mean() > 0.45:
        return "nearly half of it is plain black or white"
    return None


def fingerprint(picture: Image.Image) -> np.ndarray:
    """Describe a picture for `likeness`: [2,768] float32, rows are the picture and its mirror image, each of unit length.

    The first 256 values are 16 x 16 luminance, the other 512 its horizontal and vertical differences; each part has zero mean
    and equal weight, so brightness, contrast and saturation do not matter.
    """
    luminance = np.asarray(picture.convert("L").resize((17, 17), Image.Resampling.BOX), dtype=np.float32)
    return np.stack([_unit_parts(luminance), _unit_parts(luminance[:, ::-1])])


def likeness(fingerprints: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compare pictures: the largest correlation of one with the other or its mirror image.

    Args:
        fingerprints: [N,2,768] float32 from `fingerprint`.
        others: [M,2,768] float32.

    Returns:
        [N,M] float32 in -1..1; 1 for equal pictures.
    """
    return np.einsum("nf,mkf->nmk", fingerprints[:, 0], others).max(axis=-1)


def _unit_parts(luminance: np.ndarray) -> np.ndarray:
    parts = (luminance[:16, :16], np.diff(luminance, axis=1)[:16], np.diff(luminance, axis=0)[:, :16])
    result = []
    for part, weight in zip(parts, (0.5, 0.25, 0.25)):
        part = part.ravel() - part.mean()
        result.append(part * np.sqrt(weight) / max(float(np.linalg.norm(part)), 1e-6))
    return np.concatenate(result).astype(np.float32)


def package_folder(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(package, package.replace("_", "-"))
        raise FileNotFoundError(
            f"package {package} must be installed for its pictures, got none. Install it: pip install {distribution}"
        )
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*inside.split("/"))


def _photographs_in(folders, files, not_photographs: dict[str, str]) -> list[tuple[Photograph, np.ndarray]]:
    """Open every candidate file; keep (photograph, fingerprint) of the usable ones, sorted by name."""
    candidates = []
    for package, inside in folders:
        candidates += [(package, path) for path in package_folder(package, inside).iterdir() if path.is_file()]
    for package, inside, names in files:
        candidates += [(package, package_folder(package, inside) / name) for name in names]
    kept = []
    for package, path in sorted(candidates, key=lambda candidate: (candidate[0], candidate[1].name)):
        name = f"{package}/{path.name}"
        try:
            with Image.open(path) as picture:
                reason = reason_to_reject(picture)
                if reason is None:
                    kept.append((Photograph(name, str(path)), fingerprint(picture)))
                    continue
        except UnidentifiedImageError:
            reason = "it is no picture"
        not_photographs[name] = reason
    return kept


def _without_duplicates(pictures, duplicates: dict[str, str]) -> list[tuple[Photograph, np.ndarray]]:
    kept: list[tuple[Photograph, np.ndarray]] = []
    for photograph, print_ in pictures:
        if kept:
            alike = likeness(print_[None], np.stack([other for _, other in kept]))[0]
            if alike.max() > SAME_SET_LIKENESS:
                duplicates[photograph.name] = kept[int(alike.argmax())][0].name
                continue
        kept.append((photograph, print_))
    return kept


def _apart_from(train, test, duplicates: dict[str, str]) -> list[tuple[Photograph, np.ndarray]]:
    """Drop the training pictures that look like a test picture or show the same template."""
    if not train or not test:
        return train
    alike = likeness(np.stack([print_ for _, print_ in train]), np.stack([print_ for _, print_ in test]))
    templates = {_template(photograph.name): photograph.name for photograph, _ in test}
    kept = []
    for row, (photograph, print_) in zip(alike, train):
        if row.max() > ACROSS_SETS_LIKENESS:
            duplicates[photograph.name] = test[int(row.argmax())][0].name
        elif _template(photograph.name) in templates:
            duplicates[photograph.name] = templates[_template(photograph.name)]
        else:
            kept.append((photograph, print_))
    return kept


def _template(name: str) -> str:
    """`package/flux_fill-2.webp` -> `flux_fill`: a template's thumbnails are numbered and often show one picture twice."""
    return re.sub(r"-\d+$", "", Path(name).stem)
