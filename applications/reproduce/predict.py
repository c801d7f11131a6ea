"""Harmonize every composite of a list into a folder: over any number of processes, gone on with after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ...common.files import written_whole
from ...common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture, tensor_to_pil
from ...common.masks import binarize_mask
from ...common.processes import on_main
from ...common.run_folder import claim, digest
from ...dataset.pairs import Pair
from ...diffusion.inference import ConditionedSampler
from ...diffusion.sampler import sample_generators
from ...diffusion.unet import load_unet
from ...harmony_vae import load_harmony_vae, load_vae
from ...refinement import load_refinement
from .paper import Method

STEPS = 5  # SPEC §2


@dataclass(frozen=True)
class Settings:
    """What a folder of predictions was made with. checkpoints: name -> digest of the file. composites: their fingerprint."""

    size: int
    kept: int
    conditional: bool
    steps: int
    seed: int
    checkpoints: dict[str, str]
    composites: str


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Of what predictions are made from: the composites and masks in their order, by name, size and time of change of the files, wherever
    the data set lies. How many, then 12 hex digits. Raises: FileNotFoundError for a file that does not exist."""
    sha = hashlib.sha256()
    for pair in pairs:
        for path in (pair.composite, pair.mask):
            try:
                status = path.stat()
            except FileNotFoundError:
                raise FileNotFoundError(f"{path.name} must exist, looked in {path.parent}. Complete the data set or mend its list.") from None
            sha.update(f"{pair.subset}/{path.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return f"{len(pairs)}-{sha.hexdigest()[:12]}"


def predict(
    method: Method,
    models: dict[str, Path],
    pairs: list[Pair],
    folder: Path,
    *,
    size: int,
    kept: int,
    seed: int,
    device: torch.device,
    steps: int = STEPS,
    numbers: Sequence[int] | None = None,
    rank: int = 0,
    processes: int = 1,
) -> None:
    """Write `<folder>/<stem>.png` for this process's share of `pairs`; what is there already is left.

    Composite and mask are brought to `size` x `size`, harmonized there (background as the models leave it: the evaluator pastes
    the real one), and saved at `kept` x `kept` by Pillow's bilinear filter, as the evaluator would reduce it. Image i is sampled with seed + i,
    whatever the number of processes; numbers: what to count as i, None for the places in `pairs`. models: checkpoint name -> path.
    Raises: ValueError when the folder was begun with other settings or composites; as the loaders do. Source: SPEC §2, §8.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def begin() -> None:
        digests = {name: digest(models[name]) for name in method.models}
        claim(folder, asdict(Settings(size, kept, method.conditional, steps, seed, digests, fingerprint(pairs))))

    # a process that works alone may be one of several, the others waiting for it elsewhere
    on_main(begin) if processes > 1 else begin()
    missing = [(index, pair) for index, pair in list(zip(numbers or range(len(pairs)), pairs))[rank::processes] if not _path(folder, pair).is_file()]
    if not missing:
        return
    vae = (load_harmony_vae if method.conditional else load_vae)(models[method.vae]).to(device)
    unet = load_unet(models[method.unet]).to(device) if method.unet else None
    refinement = load_refinement(models[method.refinement]).to(device) if method.refinement else None
    for index, pair in tqdm(missing, desc=folder.name, unit="image", disable=rank > 0, dynamic_ncols=True):
        composite = pil_to_tensor(_square(read_picture(pair.composite).convert("RGB"), size))
        mask = pil_to_mask(_square(read_mask(pair.mask), size))
        if unet is None:
            result = _decoded_again(vae, composite.to(device), mask.to(device))
        else:
            sampler = ConditionedSampler(
                vae, unet, composite, mask, size="native", detail="decoded", paste_background=False, conditional=method.conditional,
                refinement=refinement, device=device,
            )  # fmt: skip
            result = sampler.sample(sample_generators(seed + index, 1), steps=steps)
        with written_whole(_path(folder, pair)) as temporary:
            _square(tensor_to_pil(result)[0], kept).save(temporary, format="png")


@torch.no_grad()
def _decoded_again(vae, composite: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What is left where no UNet harmonizes: the composite's own latent, decoded under composite and mask."""
    return vae.decode(vae.encode(composite).latent_dist.mode(), vae.encode_condition(composite, binarize_mask(mask))).sample


def _path(folder: Path, pair: Pair) -> Path:
    return folder / f"{pair.composite.stem}.png"


def _square(image: Image.Image, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)
