"""harmonize(): composite and mask in, harmonized image out, any size, without a host (DESIGN.md, data flow 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..refinement import HarmonyRefinement
from .conditioned import Conditioned, Size, check_directions, size_multiple, working_size
from .sampler import STEPS, Progress, Scheduler, sample_generators

__all__ = ["Size", "check_directions", "harmonize", "size_multiple", "working_size"]


def harmonize(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    composite: torch.Tensor,
    mask: torch.Tensor,
    steps: int = STEPS,
    seed: int | Sequence[int] = 0,
    *,
    size: Size = None,
    paste_background: bool = True,
    conditional: bool | None = None,
    keep_detail: bool = True,
    tile: int | None = None,
    refinement: HarmonyRefinement | None = None,
    ancestral: bool = True,
    scheduler: Scheduler | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Relight the foreground of composites to match their background (or, with an inverse pair, the reverse).

    vae: a HarmonyVAE, or a plain AutoencoderKL. unet: from `load_unet`. Each computes in its own dtype.
    composite: [B, 3, H, W], floating, -1..1, any size. mask: [B or 1, 1, H, W], 0..1; 1 = foreground. The models see it
    binarized at 0.5; its soft values blend when the background is pasted. A composite of batch 1 serves N masks.
    Where `vae.direction` and `unet.direction` are both known they must agree for a conditional decode.
    seed: image i is sampled with seed + i (or seed[i]), whatever the batch size, device or dtype.
    size: the working size. A number brings the longer side to that many pixels, keeping the aspect; "native" works at the
    image's own size; None is native, but at most 1024 px. The working image is padded (reflected) at the right and
    bottom to what VAE and UNet divide by, and cropped back.
    keep_detail: where the working size is smaller than the image, add the enlarged *change* to the composite, which keeps
    its fine detail; False enlarges the result itself.
    paste_background: blend by the mask over the composite; pixels whose mask is 0 then come back bit for bit, and a mask
    that is 0 everywhere gives a copy of the composite without running the models.
    conditional: decode under the condition (composite, mask); None does so where the VAE can. tile: decode conditionally
    in tiles of that many pixels; encoding and sampling still see the whole image.
    refinement: from `load_refinement`; runs on the decoded image at its own fixed size, and its change is brought up to the
    working size (see `refine`). ancestral: False samples without added noise. scheduler: see `sample_latents`.
    device: where to compute; None is where the UNet is. progress: called with (steps done, steps).
    Returns: [B, 3, H, W], composite's dtype and device, -1..1 (the composite's own values where pasted).
    Raises: ValueError for shapes, ranges or options that do not fit; RuntimeError when half precision overflowed.
    Source: SPEC §2, §3, §10; DESIGN.md "Contracts".
    """
    conditioned = Conditioned(
        vae,
        unet,
        composite,
        mask,
        size=size,
        paste_background=paste_background,
        conditional=conditional,
        keep_detail=keep_detail,
        tile=tile,
        refinement=refinement,
        device=device,
    )
    generators = sample_generators(seed, conditioned.original.shape[0])
    return conditioned.draw(generators, steps=steps, ancestral=ancestral, scheduler=scheduler, progress=progress)
