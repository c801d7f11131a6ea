"""Ours beside what users would pick instead, in one run and one table, on a set in iHarmony4's layout; pictures of best, median and worst.

    python -m diffharmony.applications.tiny.compare --data SET --out out/compare     (pip install -e ".[train,compare]")
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...common.assets import TINY
from ...common.files import make_folder, written_whole
from ...common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture, tensor_to_pil
from ...common.pictures import HALF
from ...common.sheets import labelled_sheet
from ...dataset.pairs import read_list
from ...diffusion import harmonize, load_unet
from ...diffusion.calibration import WORSE
from ...evaluation.baselines import colour_transfer
from ...evaluation.metrics import Measurement, measure
from ...harmony_vae import load_harmony_vae

logger = logging.getLogger("diffharmony")
COLOR_MATCH = ("mkl", "hm", "reinhard", "mvgd", "hm-mvgd-hm")
OURS = {
    "ours, plain": {"detail": "decoded", "conditional": False},
    "ours, decoded": {"detail": "decoded"},
    "ours, change": {"detail": "change"},
    "ours, transfer": {"detail": "transfer", "crop": "auto"},  # as command and node do by default
}
PACKAGES = {"color_matcher": "color-matcher", "cv2": "opencv-python-headless"}
COLUMNS = ("fMSE", "ratio", "mild", "middle", "strong", "worse", "PSNR")
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CompareConfig:
    """Composite, colour matching, mean/std, seamless cloning and ours, in one table."""

    data: Path
    """Data set in iHarmony4's layout."""
    out: Path
    """Folder for methods.json, methods.md, and best.png, median.png and worst.png: every method's picture of one composite."""
    list: str = "IHD_test.txt"
    """List of composites: a name in the data set's folder."""
    vae: Path = TINY / "harmony_vae.safetensors"
    unet: Path = TINY / "harmonization_unet.safetensors"
    steps: int | None = None
    """None: as users get by default, what the UNet's file names to transfer light, and 5 otherwise."""
    seed: int = 0
    """Composite i is sampled with seed + i."""
    json: bool = False
    """Print one JSON object as the last line."""


def color_match(method: str) -> Method:
    """KJNodes' ColorMatch: the composite's foreground matched to the background's colours by the package color-matcher.

    Both are passed as strips of the region's pixels, so that what is matched is a region and not the picture.
    """
    from color_matcher import ColorMatcher

    def match(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        result = image.copy()
        if mask.all() or not mask.any():
            return result
        matched = ColorMatcher().transfer(src=image[mask][:, None] / 255.0, ref=image[~mask][:, None] / 255.0, method=method)
        result[mask] = np.round(np.nan_to_num(matched[:, 0]).clip(0, 1) * 255).astype(np.uint8)
        return result

    return match


def seamless_clone(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's Poisson blending of the foreground into its own surroundings, which are filled in below it.

    image: [H, W, 3] uint8. mask: [H, W] bool. Returns: [H, W, 3] uint8. Source: P. Perez et al., "Poisson Image Editing", 2003.
    """
    import cv2

    inner = mask.copy()
    inner[[0, -1]] = inner[:, [0, -1]] = False  # it takes no mask at the picture's border
    if not inner.any():
        return image.copy()
    rows, columns = np.nonzero(inner)
    # it lays the mask's bounding box with its centre there
    centre = (int(columns.min() + columns.max() + 1) // 2, int(rows.min() + rows.max() + 1) // 2)
    hard = inner.astype(np.uint8) * 255
    scene = cv2.inpaint(image, hard, 5, cv2.INPAINT_TELEA)
    return np.where(mask[..., None], cv2.seamlessClone(image, scene, hard, centre, cv2.NORMAL_CLONE), image)


def classical_methods() -> dict[str, Method]:
    """The methods without a model whose packages are installed; the log names those that are not."""
    missing = {name: package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None}
    for package in missing.values():
        logger.warning("%s must be installed for its methods, got none: they are left out. pip install -e '.[compare]'", package)
    found: dict[str, Method] = {"composite": lambda image, mask: image, "mean/std in Lab": colour_transfer}
    if "color_matcher" not in missing:
        found |= {f"ColorMatch {name}": color_match(name) for name in COLOR_MATCH}
    if "cv2" not in missing:
        found["seamlessClone"] = seamless_clone
    return found


def table_of(measured: dict[str, Sequence[Measurement]]) -> dict[str, dict[str, float]]:
    """COLUMNS for each method. `measured` holds as many measurements for each, in one order, the composite's under "composite".

    ratio: fMSE over the composite's; mild, middle, strong: the same over thirds by the composite's fMSE; worse: the share of images
    with more than 1.05 x the composite's fMSE. Images without foreground are left out.
    """
    base = np.array([item.fmse for item in measured["composite"]])
    valid = np.flatnonzero(np.isfinite(base))
    order = valid[np.argsort(base[valid], kind="stable")]
    thirds = dict(zip(("mild", "middle", "strong"), np.array_split(order, 3)))
    rows = {}
    for name, items in measured.items():
        fmse = np.array([item.fmse for item in items])

        def ratio(indices: np.ndarray) -> float:
            return float(fmse[indices].sum() / base[indices].sum()) if base[indices].sum() > 0 else math.nan

        rows[name] = {
            "fMSE": float(fmse[valid].mean()), "ratio": ratio(valid), **{third: ratio(indices) for third, indices in thirds.items()},
            "worse": float((fmse[valid] > WORSE * base[valid]).mean()), "PSNR": float(np.mean([item.psnr for item in items])),
        }  # fmt: skip
    return rows


def markdown_of(rows: dict[str, dict[str, float]]) -> str:
    """The table as people read it."""
    lines = ["| method | fMSE | x composite | mild | middle | strong | worse by > 5 % | PSNR |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [f"{row['fMSE']:.1f}", *(f"{row[c]:.2f}" for c in COLUMNS[1:5]), f"{row['worse']:.0%}", f"{row['PSNR']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compare_methods(config: CompareConfig) -> dict[str, Any]:
    """Measure every method (background pasted, 256 px, convention diffharmony); write table and pictures.

    Returns: {"rows": {method: {column: figure}}, "count", "data", "list", and of "best", "median" and "worst"
    {"composite", "ratio"}}. Raises: as the loaders and the list's reader do.
    """
    make_folder(config.out, "out")
    pairs = read_list(config.data, config.list)
    vae, unet, classical = load_harmony_vae(config.vae), load_unet(config.unet), classical_methods()
    measured: dict[str, list[Measurement]] = {name: [] for name in (*classical, *OURS)}

    def run(index: int) -> tuple[dict[str, Image.Image], Image.Image, Image.Image]:
        composite, real, mask = read_picture(pairs[index].composite).convert("RGB"), read_picture(pairs[index].real), read_mask(pairs[index].mask)
        array, region, soft = np.asarray(composite), np.asarray(mask) >= HALF, pil_to_mask(mask)
        results = {name: Image.fromarray(method(array, region)) for name, method in classical.items()}
        for name, options in OURS.items():
            out = harmonize(vae, unet, pil_to_tensor(composite), soft, config.steps, config.seed + index, **options)
            results[name] = tensor_to_pil(out)[0]
        return results, real, mask

    for index in tqdm(range(len(pairs)), desc="Comparing", unit="image"):
        results, real, mask = run(index)
        for name, picture in results.items():
            measured[name].append(measure(picture, real, mask, real_background=True))
    result = {"rows": table_of(measured), "count": len(pairs), "data": str(config.data), "list": config.list}
    ratios = np.array([ours.fmse / max(base.fmse, 1e-9) for ours, base in zip(measured["ours, transfer"], measured["composite"])])
    order = np.argsort(ratios)
    for label, place in (("best", 0), ("median", len(order) // 2), ("worst", len(order) - 1)):
        index = int(order[place])
        pictures, real, mask = run(index)
        shown = {"mask": mask, **pictures, "real": real}
        sheet = labelled_sheet(torch.cat([pil_to_tensor(picture.convert("RGB")) for picture in shown.values()]), list(shown))
        with written_whole(config.out / f"{label}.png") as temporary:
            tensor_to_pil(sheet)[0].save(temporary, format="png")
        result[label] = {"composite": pairs[index].composite.name, "ratio": float(ratios[index])}
    for name, text in (("methods.json", json.dumps(result, indent=1)), ("methods.md", markdown_of(result["rows"]))):
        with written_whole(config.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return result


def main() -> None:
    import tyro

    config = tyro.cli(CompareConfig, description=__doc__)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    result = compare_methods(config)
    print(markdown_of(result["rows"]))
    if config.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
