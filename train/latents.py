"""Latents computed once: what the UNet trains on when the VAE's encoder would cost more than the UNet."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..common.allocator import keep_freed_memory
from ..common.checkpoint import written_whole
from ..common.masks import mask_to_latent
from .batches import make_loader, pack
from .data import TRIES, HarmonizationDataset, ShuffledStream
from .roles import condition_and_target

logger = logging.getLogger("diffharmony")
NAMES = ("condition_latent", "target_latent", "mask_latent")


class LatentDataset(Dataset):
    """Training samples by counter, as HarmonizationDataset's, but of latents.

    Gives condition_latent, target_latent [4,h,w] float32 (scaled), mask_latent [1,h,w] in {0,1}, `seed`, `name`; `pack` gives
    them many at once, as they are stored. replaced: the rows that stand in for bad images, and which these are (path, why).
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], names: list[str], seed: int, stream: ShuffledStream,
        replaced: Iterable[int] = (), skipped: Iterable[tuple[str, str]] = (),
    ):  # fmt: skip
        self.tensors, self.names, self.seed = tensors, names, seed
        self.replaced, self.skipped = frozenset(replaced), list(skipped)
        self._stream = stream

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, counter: int) -> dict[str, torch.Tensor | int | str]:
        packed = self.pack([counter])
        return {**{name: packed[name][0].float() for name in NAMES}, "seed": int(packed["seed"]), "name": packed["name"][0]}

    def pack(self, counters: Iterable[int]) -> dict[str, Any]:
        """The samples of these counters, packed (train/batches.py)."""
        counters = list(counters)
        rows = [self._stream[counter] for counter in counters]
        seeds = [int(np.random.default_rng((self.seed, 1, counter)).integers(2**62)) for counter in counters]
        return {
            **{name: self.tensors[name][rows] for name in NAMES},
            "seed": torch.tensor(seeds),
            "name": [self.names[row] for row in rows],
            "skipped": [] if self.replaced.isdisjoint(rows) else self.skipped,
        }


class _Views(Dataset):
    """`views` cuts of each pair, each by its own seed."""

    def __init__(self, dataset: HarmonizationDataset, views: int):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset.pairs) * self.views

    def names(self, rows: Iterable[int]) -> list[str]:
        return [str(self.dataset.pairs[row // self.views].composite) for row in rows]

    def pack(self, rows: Iterable[int]) -> dict[str, Any]:
        return pack([self._cut(*divmod(row, self.views)) for row in rows])

    def _cut(self, pair: int, view: int):
        pairs = ((pair + try_) % len(self.dataset) for try_ in range(TRIES))
        return self.dataset.first_readable(pairs, (self.dataset.seed, 2, pair, view), self.dataset.config.size)


@torch.no_grad()
def cache_latents(
    vae, dataset: HarmonizationDataset, *, views: int, direction: str, folder: Path, seed: int, device: torch.device, batch_size: int = 16
) -> LatentDataset:
    """Encode `views` cuts of every pair, or read them from `folder` where the same call wrote them before.

    The file holds float16 latents, scaled; it appears whole or not at all, under a name that says what it was made from.
    Raises: ValueError where the data set has several sizes.
    """
    if dataset.config.sizes:
        raise ValueError(
            f"data.sizes must be left out when latents are cached, got {dataset.config.sizes}. Leave them or cached_views out."
        )
    cuts = _Views(dataset, views)
    stream = ShuffledStream([length * views for length in dataset.lengths], seed, dataset.config.weights)
    path = folder / f"latents-{_fingerprint(vae, dataset, views, direction)}.safetensors"
    if path.is_file():
        logger.info("reading latents from %s", path)
    else:
        _write_latents(path, vae.to(device).eval(), cuts, direction, device, batch_size)
    names = cuts.names(range(len(cuts)))
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in NAMES}
        replaced, skipped = (json.loads(file.metadata()[name]) for name in ("replaced", "skipped"))
    for row, name in replaced.items():
        names[int(row)] = name
    return LatentDataset(tensors, names, seed, stream, map(int, replaced), map(tuple, skipped))


def _write_latents(path: Path, vae, cuts: _Views, direction: str, device: torch.device, batch_size: int) -> None:
    if device.type == "cpu":
        keep_freed_memory()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    replaced: dict[int, str] = {}
    batches = [list(range(start, min(start + batch_size, len(cuts)))) for start in range(0, len(cuts), batch_size)]
    loader = make_loader(cuts, batches, cuts.dataset.config.workers, device)
    for rows, batch in zip(batches, tqdm(loader, desc="latents", unit="batch", dynamic_ncols=True)):
        condition_image, target = condition_and_target(batch, direction)
        for name, image in (("condition_latent", condition_image), ("target_latent", target)):
            latent = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
            parts[name].append(latent.half().cpu())
        parts["mask_latent"].append(mask_to_latent(batch["mask"], latent.shape[2:]).half().cpu())
        replaced.update({row: name for row, name, listed in zip(rows, batch["name"], cuts.names(rows)) if name != listed})
    tensors = {name: torch.cat(pieces).contiguous() for name, pieces in parts.items()}
    metadata = {"replaced": json.dumps(replaced), "skipped": json.dumps(list(loader.skipped.items()))}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata)


def _fingerprint(vae, dataset: HarmonizationDataset, views: int, direction: str) -> str:
    """What the latents depend on: E with its quant_conv and scale, the images' files, and how they are cut."""
    weights = hashlib.sha256()
    parts = [vae.encoder] if vae.quant_conv is None else [vae.encoder, vae.quant_conv]
    for tensor in (tensor for part in parts for tensor in part.state_dict().values()):
        weights.update(tensor.cpu().float().numpy().tobytes())
    cut = {name: str(value) for name, value in vars(dataset.config).items() if name not in ("workers", "weights")}
    files = [(str(path), *_stamp(path)) for pair in dataset.pairs for path in (pair.composite, pair.mask, pair.real)]
    text = json.dumps([cut, dataset.seed, views, direction, vae.config.scaling_factor, files])
    return hashlib.sha256(text.encode() + weights.digest()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:  # its pair is skipped
        return 0, 0
    return status.st_size, status.st_mtime_ns
