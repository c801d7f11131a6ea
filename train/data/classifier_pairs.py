"""What the harmony classifier is trained and measured on: pairs split by photograph, and both of a pair treated alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from ...classifier.model import HarmonyClassifier
from ...common.text import hash64
from ...dataset.pairs import Pair
from ...dataset.same_files import same_files
from ..config import DataConfig
from .batches import make_loader
from .cached import CachedDataset, Views, cached, crop_settings, files_of
from .crops import Crop
from .dataset import HarmonizationDataset

COMPOSITE_FEATURES, REAL_FEATURES = "composite_features", "real_features"
JPEG_QUALITY = (40, 96)
SMALLEST_RESIZE = 0.6
LARGEST_GAIN = 0.2  # of each channel, as a power of e
LARGEST_GAMMA = 0.25  # the same way


class ClassifierPairs(HarmonizationDataset):
    """HarmonizationDataset that with `alike` treats both images of a pair alike.

    A composite's file has a history of its own: recoloured from 8 bits, perhaps compressed once more than the real image, or saved in
    another format. A classifier finds that sooner than the light. With `alike` both images of a pair pass through the same gains and
    gamma, resize and JPEG compression, drawn anew for each sample, so that light alone is left to tell them apart.
    """

    def __init__(self, config: DataConfig, seed: int, *, alike: bool = False, batch_size: int | None = None):
        super().__init__(config, seed, batch_size=batch_size)
        self.alike = alike

    def read(self, pair: int, rng: np.random.Generator, size: int) -> Crop:
        crop = super().read(pair, rng, size)
        return augment_jointly(crop, rng) if self.alike else crop


def augment_jointly(crop: Crop, rng: np.random.Generator) -> Crop:
    """The crop with the same changes of both images: gains and gamma, in half of the crops a resize and back, JPEG compression."""
    gains = np.exp(rng.uniform(-LARGEST_GAIN, LARGEST_GAIN, 3))
    gamma = np.exp(rng.uniform(-LARGEST_GAMMA, LARGEST_GAMMA))
    side = round(crop.mask.shape[-1] * rng.uniform(SMALLEST_RESIZE, 1)) if rng.random() < 0.5 else None
    quality = int(rng.integers(*JPEG_QUALITY, endpoint=True))
    levels = (np.arange(256) / 255) ** gamma * gains[:, None]
    curves = torch.from_numpy((levels.clip(0, 1) * 255).round().astype(np.uint8))

    def treat(image: torch.Tensor) -> torch.Tensor:
        image = torch.stack([curve[channel.long()] for curve, channel in zip(curves, image)])
        if side is not None:
            size = image.shape[-2:]
            image = F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)[0]
        return decode_jpeg(encode_jpeg(image.contiguous(), quality))

    return crop._replace(composite=treat(crop.composite), real=treat(crop.real))


def photographs_of(pairs: Iterable[Pair]) -> list[tuple[str, str]]:
    """Which photograph each pair is made of: subset and real image's name, whatever the root and suffix. Real images that are the same,
    byte for byte, are one photograph, whatever their names: it has the first of these."""
    pairs = list(pairs)
    keys = {str(pair.real): (pair.subset, pair.real.stem) for pair in pairs}
    first: dict[tuple[str, str], tuple[str, str]] = {}

    def stands_for(key: tuple[str, str]) -> tuple[str, str]:
        while key in first:
            key = first[key]
        return key

    for name, other in same_files((name, Path(name)) for name in keys if Path(name).is_file()).items():
        low, high = sorted((stands_for(keys[name]), stands_for(keys[other])))
        if low != high:
            first[high] = low
    return [stands_for(keys[str(pair.real)]) for pair in pairs]


def split_photographs(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the pairs to train on, and of those held out: all composites of about `share` of the photographs.

    Every photograph, real image and composites, is on one side. Which side depends on seed, subset and name only, so that it stays
    where it is when others come or go, but for copies of it under a name that comes first. Raises: ValueError where a side would be empty.
    """
    sides: tuple[list[int], list[int]] = ([], [])
    for index, photograph in enumerate(photographs_of(pairs)):
        sides[hash64(seed, *photograph) < share * 2**64].append(index)
    if share and not all(sides):
        which = "trained on" if sides[1] else "held out"
        raise ValueError(
            f"held_out must leave photographs on both sides, got {share} and none {which} of {len(pairs)} composites. Change it."
        )
    return sides


def check_apart(trained: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    """Raises: ValueError where a photograph is on both sides."""
    found = photographs_of([*trained, *held_out])
    shared = sorted({*found[: len(trained)]} & {*found[len(trained) :]})
    if shared:
        names = ", ".join("/".join(name) for name in shared[:5])
        raise ValueError(
            f"no photograph must be both trained on and held out, got {len(shared)} that are: {names}{', …' if len(shared) > 5 else ''}. "
            "Take their composites out of one of the two lists."
        )


def cache_features(
    classifier: HarmonyClassifier, dataset: ClassifierPairs, *, views: int, folder: Path, seed: int, device: torch.device
) -> CachedDataset:
    """The backbone's features of both images of `views` crops of every pair at `data.size`, computed once, or read from `folder`.

    Samples have composite_features and real_features [F].
    """
    path = folder / f"features-{_fingerprint(classifier, dataset, views)}.safetensors"
    classifier.to(device).eval()

    def compute(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        mask = batch["mask"] if classifier.needs_mask else None
        return {
            COMPOSITE_FEATURES: classifier.features(batch["composite"], mask),
            REAL_FEATURES: classifier.features(batch["real"], mask),
        }

    return cached(path, Views(dataset, views), compute, seed=seed, device=device)


class HeldOut:
    """The held-out pairs as validation takes them, whole and untreated: as images, or as cached features."""

    def __init__(self, images: ClassifierPairs, features: CachedDataset | None = None):
        self.images, self.features = images, features
        self.pairs, self.seed = images.pairs, images.seed

    def view(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if self.features is None:
            return self.images.view(index, rng)
        row = {name: tensor[index].float() for name, tensor in self.features.tensors.items()}
        return {**row, "seed": 0, "name": self.features.names[index]}

    def batches(self, size: int, device: torch.device) -> Iterable[dict[str, Any]]:
        """All pairs once, in their order, as tasks take them."""
        order = [list(range(start, min(start + size, len(self.pairs)))) for start in range(0, len(self.pairs), size)]
        return make_loader(_InOrder(self), order, self.images.config.workers if self.features is None else 0, device)


class _InOrder:
    def __init__(self, held_out: HeldOut):
        self._views, self._features = Views(held_out.images, 1), held_out.features

    def __len__(self) -> int:
        return len(self._views)

    def pack(self, rows: list[int]) -> dict[str, Any]:
        if self._features is None:
            return self._views.pack(rows)
        names = [self._features.names[row] for row in rows]
        return {name: tensor[rows] for name, tensor in self._features.tensors.items()} | {"name": names}


def _fingerprint(classifier: HarmonyClassifier, dataset: ClassifierPairs, views: int) -> str:
    """What the features depend on: the backbone, what it sees, the images' files, and how they are cut and treated."""
    weights = hashlib.sha256()
    for tensor in classifier.backbone.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    text = json.dumps([classifier.config, crop_settings(dataset), dataset.alike, dataset.seed, views, files_of(dataset)])
    return hashlib.sha256(text.encode() + weights.digest()).hexdigest()[:16]
