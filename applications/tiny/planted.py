"""A planted set: of each real image one strongly recoloured candidate among untouched ones, to see whether selection finds it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ...classifier.inference import unharmonious_probability
from ...classifier.model import HarmonyClassifier
from ...common.images import read_mask, read_picture
from ...dataset.pairs import Pair
from ...inverse.selection import choose_candidates
from ...synthetic.recolor import change_light, foreground_mse, is_usable

CANDIDATES = 10
STRONG_FMSE = 600.0  # iHarmony4's mean over its test composites is 594.67 (SPEC §9)
TRIES = 200
JPEG_QUALITY = (70, 98)
LARGEST_NOISE = 2.0  # standard deviation, of 0..255


@dataclass(frozen=True)
class Planted:
    """images: [K, H, W, 3] uint8, of which `place` is recoloured inside `mask` [H, W] uint8 0..255, by `fmse`; `change` says how."""

    images: np.ndarray
    mask: np.ndarray
    place: int
    fmse: float
    change: str


def plant(pair: Pair, seed: int, number: int, count: int = CANDIDATES) -> Planted | None:
    """`count` candidates of a pair's real image, one of them recoloured inside the mask by at least STRONG_FMSE; None where no change
    of TRIES is as strong and keeps the region's detail.

    Each, the recoloured one too, then passes through one of: nothing, JPEG compression of a quality of its own, noise of its own. So
    what marks the planted one is its light, not its file. Everything depends on (seed, number) only.
    """
    generator = np.random.default_rng((seed, number))
    real = np.asarray(read_picture(pair.real).convert("RGB"))
    mask = np.array(read_mask(pair.mask))
    found = _recoloured(real, mask, generator)
    if found is None:
        return None
    recoloured, change, fmse = found
    place = int(generator.integers(count))
    images = [_untouched(recoloured if index == place else real, generator) for index in range(count)]
    return Planted(np.stack(images), mask, place, fmse, change)


def find_planted(
    classifier: HarmonyClassifier, pairs: Sequence[Pair], *, images: int = 100, seed: int = 0, device: torch.device | None = None
) -> dict[str, Any]:
    """Plant in the first `images` pairs that allow it, and choose from each by score alone, without limits of distance.

    Returns: {"images", "found", "share", "mean_rank", "fmse": {"mean", "median"}, "missed": [names]}; mean_rank: of the planted one by
    score, 1 = first. Raises: ValueError where fewer pairs allow it.
    """
    names, ranks, strengths, missed = [], [], [], []
    with tqdm(total=images, desc="planted", unit="image", delay=2, dynamic_ncols=True) as bar:
        for number, pair in enumerate(pairs):
            if len(ranks) == images:
                break
            planted = plant(pair, seed, number)
            if planted is None:
                continue
            candidates = torch.from_numpy(planted.images).permute(0, 3, 1, 2).float() / 127.5 - 1  # KHWC -> KCHW
            mask = torch.from_numpy(planted.mask)[None, None].float() / 255
            scores = unharmonious_probability(classifier, candidates, mask, device=device).tolist()
            chosen = choose_candidates(scores, [0.0] * len(scores), count=len(scores)).chosen
            ranks.append(chosen.index(planted.place) + 1)
            strengths.append(planted.fmse)
            names.append(pair.composite.stem)
            if ranks[-1] > 1:
                missed.append(names[-1])
            bar.update()
    if len(ranks) < images:
        raise ValueError(f"at least {images} pairs must allow a strong change, got {len(ranks)} of {len(pairs)}. Ask for fewer images.")
    found = sum(rank == 1 for rank in ranks)
    return {
        "images": images, "found": found, "share": found / images, "mean_rank": float(np.mean(ranks)),
        "fmse": {"mean": float(np.mean(strengths)), "median": float(np.median(strengths))}, "missed": missed,
    }  # fmt: skip


def _recoloured(real: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, str, float] | None:
    inside, weight = mask > 0, mask[..., None].astype(np.float32) / 255
    for _ in range(TRIES):
        picture = real.astype(np.float32) / 255
        colours, change, clipped = change_light(picture[inside], generator)
        picture[inside] = colours
        blended = weight * picture + (1 - weight) * real.astype(np.float32) / 255
        image = np.round(blended * 255).astype(np.uint8)
        fmse = foreground_mse(image, real, mask)
        if fmse >= STRONG_FMSE and is_usable(fmse, clipped):
            return image, change, fmse
    return None


def _untouched(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    kind = generator.integers(3)
    if kind == 0:
        return image
    if kind == 1:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(generator.integers(*JPEG_QUALITY, endpoint=True)))
        return np.asarray(Image.open(file))
    noise = generator.normal(0, generator.uniform(0.3, LARGEST_NOISE), image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
