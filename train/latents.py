"""Latents computed once: what the UNet trains on when the VAE's encoder would cost more than the UNet."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..common.allocator import keep_freed_memory
from ..common.checkpoint import written_whole
from ..common.masks import mask_to_latent
from .data import HarmonizationDataset, ShuffledStream
from .roles import condition_and_target

logger = logging.getLogger("diffharmony")
NAMES = ("condition_latent", "target_latent", "mask_latent")


class LatentDataset(Dataset):
    """Training samples by counter, as HarmonizationDataset's, but of latents.

    Gives condition_latent, target_latent [4,h,w] float32 (scaled), mask_latent [1,h,w] in {0,1}, `seed`, `name`.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], names: list[str], seed: int):
        self.tensors, self.names, self.seed = tensors, names, seed
        self._stream = ShuffledStream(len(names), seed)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, counter: int) -> dict[str, torch.Tensor | int | str]:
        index = self._stream[counter]
        seed = int(np.random.default_rng((self.seed, 1, counter)).integers(2**62))
        return {**{name: self.tensors[name][index].float() for name in NAMES}, "seed": seed, "name": self.names[index]}


class _Views(Dataset):
    """`views` cuts of each pair, each by its own seed."""

    def __init__(self, dataset: HarmonizationDataset, views: int):
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset.pairs) * self.views

    def __getitem__(self, index: int):
        pair, view = divmod(index, self.views)
        return self.dataset.view(pair, np.random.default_rng((self.dataset.seed, 2, pair, view)))


@torch.no_grad()
def cache_latents(
    vae, dataset: HarmonizationDataset, *, views: int, direction: str, folder: Path, seed: int, device: torch.device, batch_size: int = 16
) -> LatentDataset:
    """Encode `views` cuts of every pair, or read them from `folder` where the same call wrote them before.

    The file holds float16 latents, scaled; it appears whole or not at all, under a name that says what it was made from.
    """
    cuts = _Views(dataset, views)
    names = [str(pair.composite) for pair in dataset.pairs for _ in range(views)]
    path = folder / f"latents-{_fingerprint(vae, dataset, views, direction)}.safetensors"
    if path.is_file():
        logger.info("reading latents from %s", path)
        return LatentDataset(load_file(path), names, seed)
    if device.type == "cpu":
        keep_freed_memory()
    vae = vae.to(device).eval()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    loader = DataLoader(cuts, batch_size=batch_size, num_workers=dataset.config.workers)
    for batch in tqdm(loader, desc="latents", unit="batch", dynamic_ncols=True):
        condition_image, target = condition_and_target(batch, direction)
        for name, image in (("condition_latent", condition_image), ("target_latent", target)):
            latent = vae.encode(image.to(device)).latent_dist.mode() * vae.config.scaling_factor
            parts[name].append(latent.half().cpu())
        parts["mask_latent"].append(mask_to_latent(batch["mask"], latent.shape[2:]).half())
    tensors = {name: torch.cat(pieces).contiguous() for name, pieces in parts.items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary)
    return LatentDataset(tensors, names, seed)


def _fingerprint(vae, dataset: HarmonizationDataset, views: int, direction: str) -> str:
    """What the latents depend on: E with its quant_conv and scale, the images' files, and how they are cut."""
    weights = hashlib.sha256()
    parts = [vae.encoder] if vae.quant_conv is None else [vae.encoder, vae.quant_conv]
    for tensor in (tensor for part in parts for tensor in part.state_dict().values()):
        weights.update(tensor.cpu().float().numpy().tobytes())
    cut = {name: str(value) for name, value in vars(dataset.config).items() if name != "workers"}
    files = [(str(path), *_stamp(path)) for pair in dataset.pairs for path in (pair.composite, pair.mask, pair.real)]
    text = json.dumps([cut, dataset.seed, views, direction, vae.config.scaling_factor, files])
    return hashlib.sha256(text.encode() + weights.digest()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
