"""Candidates: composites made of one real photograph, each from a seed of its own (SPEC §4)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..common.direction import require_direction
from ..common.masks import check_foreground
from ..common.text import hash64
from ..diffusion.inference import ConditionedSampler, Size
from ..diffusion.prepacked import PrepackedConvolutions
from ..diffusion.sampler import STEPS, Progress, sample_generators


def candidate_seed(base_seed: int, image: str, mask: str, k: int) -> int:
    """The seed of candidate `k` of a real image and one of its masks: 0 <= seed < 2**63, from a SHA-256 of all four.

    image, mask: names without folder and suffix ("a0001", "1"); the two spellings of accented letters (composed, decomposed) are
    one. It depends on nothing else: not on the order, the number of candidates, or the process.
    """
    return name_hash("candidate", base_seed, image, mask, k) % 2**63


def name_hash(purpose: str, base_seed: int, image: str, mask: str, k: int) -> int:
    """`hash64` of all arguments. Other purposes give unrelated numbers."""
    return hash64(purpose, int(base_seed), *(unicodedata.normalize("NFC", name) for name in (image, mask)), int(k))


def generate_candidates(
    vae: AutoencoderKL, unet: UNet2DConditionModel, real: torch.Tensor, mask: torch.Tensor, seeds: Sequence[int], *,
    progress: Progress | None = None, **options: Any,
) -> torch.Tensor:  # fmt: skip
    """The candidates of `draw_candidates`, which takes the same and these options, together.

    progress: called with (candidates done, candidates). Returns: [K, 3, H, W], real's dtype and device, -1..1. Raises: as it does.
    """
    drawn = draw_candidates(vae, unet, real, mask, seeds, **options)
    candidates = real.new_empty(len(seeds), *real.shape[1:])
    for index, candidate in enumerate(drawn):
        candidates[index] = candidate[0]
        if progress is not None:
            progress(index + 1, len(seeds))
    return candidates


def draw_candidates(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    real: torch.Tensor,
    mask: torch.Tensor,
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    size: Size = None,
    paste_background: bool = True,
    keep_detail: bool = True,
    device: torch.device | str | None = None,
) -> Iterator[torch.Tensor]:
    """Make composites of one real image with the inverse pair, one after another: as many as there are seeds.

    vae: an inverse HarmonyVAE. unet: an inverse UNet from `load_unet`. real: [1, 3, H, W], floating, -1..1, any size. mask:
    [1, 1, H, W], 0..1; 1 = foreground; the models see it binarized at 0.5, its soft values blend when the background is pasted.
    seeds: one whole number per candidate (see `candidate_seed`). steps, size, keep_detail, device: as in `harmonize`.
    paste_background: outside the mask a candidate is then the real image, bit for bit.
    The real image's latent and condition are computed once, and the UNet's weights are brought into the CPU's order once. Candidate j
    depends on seeds[j] only, bit for bit, whatever the other seeds (on a CPU: at the same number of threads).
    Returns: an iterator of [1, 3, H, W], -1..1. Raises, at once: ValueError for models of the other direction, shapes, ranges or options
    that do not fit, or a mask that marks nothing; on the way: RuntimeError when a result is not finite. Source: SPEC §4.
    """
    require_direction(vae, "invert", "vae")
    require_direction(unet, "invert", "unet")
    conditioned = ConditionedSampler(
        vae, unet, real, mask, size=size, paste_background=paste_background, conditional=True,
        detail="change" if keep_detail else "decoded", device=device, name="real",
    )  # fmt: skip
    check_foreground(mask)
    if conditioned.original.shape[0] != 1:
        batch = conditioned.original.shape[0]
        raise ValueError(f"real and mask must be one image and one mask, got a batch of {batch}. Pass them one by one.")
    if len(seeds) < 1:
        raise ValueError("seeds must be at least one, got none. Pass a seed for each candidate.")
    generators = sample_generators(list(seeds), len(seeds))
    packed = PrepackedConvolutions(unet)

    def draw(generator: torch.Generator) -> torch.Tensor:
        with packed:
            # one at a time: in a larger batch the same sums are taken in another order
            return conditioned.sample([generator], steps=steps)

    return map(draw, generators)
