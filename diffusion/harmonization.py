"""harmonize(): composite and mask in, harmonized image out, any size, without a host (DESIGN.md, data flow 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..common.images import pad_to_multiple, paste_background as paste, resize_image, resize_mask, resize_values
from ..common.masks import binarize_mask, check_image_and_mask, check_range, mask_to_latent
from ..refinement import HarmonyRefinement, refine
from .sampler import STEPS, Progress, Scheduler, sample_generators, sample_latents

Size = int | Literal["native"] | None
LARGEST_DEFAULT = 1024
SMALLEST_SIZE = 64


@torch.no_grad()
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
    conditional = _check_decoding(vae, conditional, tile)
    if conditional:
        check_directions(vae, unet)
    original, mask = check_image_and_mask(composite, mask)
    check_range(original, "composite")
    height, width = original.shape[-2:]
    inner = working_size(height, width, size)
    generators = sample_generators(seed, original.shape[0])
    if paste_background and not mask.any():
        return original.clone()

    device = torch.device(device) if device is not None else unet.device
    image = resize_image(original.to(device), inner)
    working_mask = binarize_mask(resize_mask(mask.to(device), inner))
    multiple = size_multiple(vae, unet)
    padded, padded_mask = pad_to_multiple(image, multiple), pad_to_multiple(working_mask, multiple)

    scaling = vae.config.scaling_factor
    condition_image = padded.to(vae.dtype)
    condition_latent = vae.encode(condition_image).latent_dist.mode().float() * scaling
    latent = sample_latents(
        unet,
        condition_latent,
        mask_to_latent(padded_mask, condition_latent.shape[-2:]),
        steps=steps,
        generator=generators,
        ancestral=ancestral,
        scheduler=scheduler,
        progress=progress,
    )
    decoded = _decode(vae, (latent / scaling).to(vae.dtype), condition_image, padded_mask.to(vae.dtype), conditional, tile)
    decoded = decoded.float()[..., : inner[0], : inner[1]]
    if not torch.isfinite(decoded).all():
        raise RuntimeError(
            f"harmonized image must be finite, got NaN or infinity in {vae.dtype} (VAE) and {unet.dtype} (UNet). "
            "Use float32 or bfloat16; in float32 already, a checkpoint is broken: get it again."
        )
    decoded = decoded.clamp(-1, 1)
    if refinement is not None:
        decoded = refine(refinement, decoded, image, working_mask)
    harmonized = _to_original_size(decoded, image, original, keep_detail)
    if paste_background:
        return paste(harmonized, original, mask)
    return harmonized.to(original.dtype)


def working_size(height: int, width: int, size: Size = None) -> tuple[int, int]:
    """The (height, width) that an image is processed at, before padding.

    size: the longer side in pixels, "native", or None (native, but at most 1024).
    Raises: ValueError for anything else.
    """
    longer = max(height, width)
    if size is None:
        size = min(longer, LARGEST_DEFAULT)
    elif size == "native":
        size = longer
    elif not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST_SIZE:
        raise ValueError(
            f"size must be a whole number of at least {SMALLEST_SIZE}, 'native' or None, got {size!r}. "
            "512 and 1024 are what the full-size models are meant for."
        )
    if size == longer:
        return height, width
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


def size_multiple(vae: AutoencoderKL, unet: UNet2DConditionModel) -> int:
    """What a working height and width must divide by: the VAE's factor times the UNet's (64 for Stable Diffusion)."""
    return 2 ** (len(vae.config.block_out_channels) - 1 + len(unet.config.block_out_channels) - 1)


def check_directions(vae: AutoencoderKL, unet: UNet2DConditionModel) -> None:
    """Refuse a Harmony-VAE of one direction with a UNet of the other; a model without `.direction` goes with both.

    Raises: ValueError. Source: SPEC §4 (direction swaps condition and target, in both models).
    """
    of_vae, of_unet = getattr(vae, "direction", None), getattr(unet, "direction", None)
    if None not in (of_vae, of_unet) and of_vae != of_unet:
        raise ValueError(
            f"vae and unet must be of one direction, got a Harmony-VAE for {of_vae!r} and a UNet for {of_unet!r}. "
            "Load the pair that was trained together; where a folder does not say its direction, set vae.direction."
        )


def _check_decoding(vae: AutoencoderKL, conditional: bool | None, tile: int | None) -> bool:
    capable = hasattr(vae, "encode_condition")
    if conditional is None:
        conditional = capable
    if conditional and not capable:
        raise ValueError(
            f"vae must be a HarmonyVAE to decode conditionally, got {type(vae).__name__}. "
            "Load a Harmony-VAE, or pass conditional=False."
        )
    if tile is not None and not conditional:
        raise ValueError(f"tile must be None for a plain decode, got {tile!r}. Use vae.enable_tiling() instead.")
    if tile is not None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if not isinstance(tile, int) or isinstance(tile, bool) or tile % factor or tile < 4 * factor:
            raise ValueError(
                f"tile must be a whole multiple of {factor} and at least {4 * factor}, got {tile!r}. Choose such a size, 512 say."
            )
    return conditional


def _decode(
    vae: AutoencoderKL, latent: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, conditional: bool, tile: int | None
) -> torch.Tensor:
    if not conditional:
        return vae.decode(latent).sample
    if tile is not None:
        return vae.decode_tiled(latent, image, mask, tile=tile).sample
    return vae.decode(latent, vae.encode_condition(image, mask)).sample


def _to_original_size(decoded: torch.Tensor, image: torch.Tensor, original: torch.Tensor, keep_detail: bool) -> torch.Tensor:
    size = original.shape[-2:]
    if decoded.shape[-2:] != size and keep_detail and decoded.shape[-1] <= size[-1] and decoded.shape[-2] <= size[-2]:
        change = resize_values(decoded - image, size).to(original.device)
        return (original.float() + change).clamp(-1, 1)
    return resize_image(decoded, size).to(original.device)
