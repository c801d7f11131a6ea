"""A batch of condition images, ready to be sampled from: what does not depend on the seed is computed once (SPEC §2-4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..common.direction import check_directions
from ..common.images import pad_to_multiple, resize_image, resize_mask, resize_values
from ..common.images import paste_background as paste
from ..common.masks import binarize_mask, check_foreground, check_image_and_mask, check_range, mask_to_latent, warn_if_dull
from ..harmony_vae.out_of_memory import WithinMemory
from ..harmony_vae.tiles import TILE_MODES, check_tile
from ..refinement import HarmonyRefinement, refine
from .calibration import Calibration
from .crop import CropOption, planned_crops, stitch_crops
from .sampler import STEPS, Progress, Scheduler, sample_generators, sample_latents
from .transfer import ColourTransform, check_strength, found_light, transfer_light
from .unet import empty_prompt_of

logger = logging.getLogger("diffharmony")

Size = int | Literal["native", "auto"] | None
Detail = Literal["transfer", "change", "decoded"]
DETAILS = ("transfer", "change", "decoded")
DEFAULT_DETAIL: Detail = "transfer"
LARGEST_DEFAULT = 1024
SMALLEST_SIZE = 64


class _Working(NamedTuple):
    """Image and mask at the working size, then padded for the models, in the VAE's dtype."""

    image: torch.Tensor
    mask: torch.Tensor
    padded: torch.Tensor
    padded_mask: torch.Tensor


class ConditionedSampler:
    """Condition images with their masks, and the models that sample under them. See `harmonize` for all arguments.

    image: [B, 3, H, W], floating, -1..1, any size. mask: [B or 1, 1, H, W], 0..1. name: what errors call the image.
    Checks at once, and computes when first sampled from: E's latent and the mask at latent size, and for a conditional decode
    E_c's features. Each is computed once, and kept for all later samples.
    A mask that marks nothing is taken: at the size of some work a small foreground vanishes.
    Raises: ValueError for shapes, ranges, directions or options that do not fit.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        image: torch.Tensor,
        mask: torch.Tensor,
        *,
        size: Size = None,
        paste_background: bool = True,
        conditional: bool | None = None,
        detail: Detail = "change",
        strength: float = 1.0,
        tile: int | None = None,
        refinement: HarmonyRefinement | None = None,
        device: torch.device | str | None = None,
        name: str = "composite",
    ):
        self._conditional = _check_decoding(vae, conditional, tile)
        if self._conditional:
            check_directions(vae, unet)
        self.original, self._mask = check_image_and_mask(image, mask, name)
        check_range(self.original, name)
        if detail not in DETAILS:
            raise ValueError(f"detail must be one of {DETAILS}, got {detail!r}. Pass one of these.")
        check_strength(strength)
        empty_prompt_of(unet)
        self.working_size = working_size(*self.original.shape[-2:], size, getattr(unet, "sizes", ()))
        self._vae, self._unet, self._refinement = vae, unet, refinement
        self._paste_background, self.detail, self._strength, self._tile = paste_background, detail, float(strength), tile
        self._device = torch.device(device) if device is not None else unet.device

    @torch.no_grad()
    def sample(
        self,
        generators: Sequence[torch.Generator],
        *,
        steps: int = STEPS,
        ancestral: bool = True,
        scheduler: Scheduler | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """One image for each generator: [B, 3, H, W], the condition image's dtype and device, -1..1. One condition image serves them all.

        Raises: RuntimeError when the result is not finite.
        """
        original, mask = (values.expand(len(generators), -1, -1, -1) for values in (self.original, self._mask))
        if self._strength == 0:
            return original.clone()
        decoded = self._decoded(generators, steps=steps, ancestral=ancestral, scheduler=scheduler, progress=progress)
        return bring_to_size(
            original, mask, decoded, detail=self.detail, calibration=getattr(self._unet, "calibration", None),
            strength=self._strength, paste_background=self._paste_background,
        )  # fmt: skip

    @torch.no_grad()
    def light(self, generators: Sequence[torch.Generator], **options: Any) -> ColourTransform:
        """The calibrated light of one sample for each of the batch; options and errors as `sample`."""
        return found_light(self.original, self._mask, self._decoded(generators, **options), getattr(self._unet, "calibration", None))

    def vanished(self) -> bool:
        """Whether nothing is left of an image's foreground at the working size."""
        return not bool(self._working.mask.amax(dim=(1, 2, 3)).all())

    def _decoded(self, generators: Sequence[torch.Generator], **options: Any) -> torch.Tensor:
        """What the models make, at the working size: [B, 3, h, w] float32, -1..1."""
        condition_latent, mask_latent = (values.expand(len(generators), -1, -1, -1) for values in self._latents)
        latent = sample_latents(self._unet, condition_latent, mask_latent, generator=generators, **options)
        decoded = self._decode((latent / self._vae.config.scaling_factor).to(self._vae.dtype))
        decoded = decoded.float()[..., : self.working_size[0], : self.working_size[1]]
        if not torch.isfinite(decoded).all():
            raise RuntimeError(
                f"harmonized image must be finite, got NaN or infinity in {self._vae.dtype} (VAE) and {self._unet.dtype} (UNet). "
                "Use float32 or bfloat16; in float32 already, a checkpoint is broken: get it again."
            )
        decoded = decoded.clamp(-1, 1)
        if self._refinement is None:
            return decoded
        return refine(self._refinement, decoded, *(values.expand(len(decoded), -1, -1, -1) for values in self._working[:2]))

    @cached_property
    def _working(self) -> _Working:
        image = resize_image(self.original.to(self._device), self.working_size)
        mask = binarize_mask(resize_mask(self._mask.to(self._device), self.working_size))
        multiple = size_multiple(self._vae, self._unet)
        padded, padded_mask = (pad_to_multiple(values, multiple).to(self._vae.dtype) for values in (image, mask))
        return _Working(image, mask, padded, padded_mask)

    @cached_property
    def _latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """E's latent, scaled, and the mask at its size."""
        working = self._working
        image = working.padded
        latent = self._vae.encode(image).latent_dist.mode() if self._within_memory is None else self._within_memory.encode(image)
        latent = latent.float() * self._vae.config.scaling_factor
        return latent, mask_to_latent(working.padded_mask.float(), latent.shape[-2:])

    @cached_property
    def _within_memory(self) -> WithinMemory | None:
        """None for a plain VAE. It keeps the condition of all samples."""
        if not hasattr(self._vae, "encode_condition"):
            return None
        within_memory = WithinMemory(self._vae, mode="auto" if self._tile is None else TILE_MODES[0], tile=self._tile)
        within_memory.condition_on(self._working.padded, self._working.padded_mask)
        return within_memory

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self._within_memory.decode(latent) if self._conditional else self._vae.decode(latent).sample


def working_size(height: int, width: int, size: Size = None, sizes: Sequence[int] = ()) -> tuple[int, int]:
    """The (height, width) that an image is processed at, before padding.

    size: the longer side in pixels, "native", or None or "auto": the first of `sizes`, which a model was trained at, that does not enlarge
    the image, else the smallest of them; where none are known native, but at most 1024.
    Raises: ValueError for anything else.
    """
    longer = max(height, width)
    if size is None or size == "auto":
        size = next((one for one in sizes if one <= longer), min(sizes, default=min(longer, LARGEST_DEFAULT)))
    elif size == "native":
        size = longer
    elif not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST_SIZE:
        raise ValueError(
            f"size must be a whole number of at least {SMALLEST_SIZE}, 'native', 'auto' or None, got {size!r}. "
            "512 and 1024 are what the full-size models are meant for."
        )
    if size == longer:
        return height, width
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


@cache
def tell_size(inner: tuple[int, int], size: tuple[int, int], sizes: tuple[int, ...]) -> None:
    """Say at which size is worked: once for each."""
    height, width = inner
    known = f"trained at {', '.join(map(str, sizes))} px" if sizes else "trained sizes unknown"
    logger.info("Working at %d x %d px (image %d x %d px; UNet %s)", width, height, size[1], size[0], known)
    if max(inner) > max(size):
        logger.warning("The working size %d x %d px enlarges the image of %d x %d px, which adds no detail.", width, height, size[1], size[0])


def size_multiple(vae: AutoencoderKL, unet: UNet2DConditionModel) -> int:
    """What a working height and width must divide by: the VAE's factor times the UNet's (64 for Stable Diffusion)."""
    return 2 ** (len(vae.config.block_out_channels) - 1 + len(unet.config.block_out_channels) - 1)


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
        check_tile(tile, 2 ** (len(vae.config.block_out_channels) - 1))
    return conditional


def bring_to_size(
    original: torch.Tensor,
    mask: torch.Tensor,
    decoded: torch.Tensor,
    *,
    detail: Detail = DEFAULT_DETAIL,
    calibration: Calibration | None = None,
    strength: float = 1.0,
    paste_background: bool = True,
) -> torch.Tensor:
    """What a model made of an image at its working size, as an image of the original's size: in one of three ways, see `harmonize`.

    original: [B, 3, H, W], floating, -1..1. mask: [B or 1, 1, H, W], 0..1. decoded: [B, 3, h, w], -1..1. calibration: as of
    `transfer_light`. Returns: [B, 3, H, W], the original's dtype and device, -1..1.
    """
    if detail == "transfer":
        return transfer_light(original, mask, decoded, calibration=calibration, strength=strength, paste_background=paste_background)
    size, inner = original.shape[-2:], decoded.shape[-2:]
    if inner != size and detail == "change" and inner[0] <= size[0] and inner[1] <= size[1]:
        change = resize_values(decoded - resize_image(original.to(decoded.device), inner), size).to(original.device)
        result = (original.float() + change).clamp(-1, 1)
    else:
        result = resize_image(decoded, size).to(original.device)
    if strength != 1:
        result = (original.float() + strength * (result - original.float())).clamp(-1, 1)
    return paste(result, original, mask) if paste_background else result.to(original.dtype)


def harmonize(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    composite: torch.Tensor,
    mask: torch.Tensor,
    steps: int | None = None,
    seed: int | Sequence[int] = 0,
    *,
    size: Size = None,
    paste_background: bool = True,
    conditional: bool | None = None,
    detail: Detail | None = None,
    strength: float = 1.0,
    keep_detail: bool | None = None,
    tile: int | None = None,
    refinement: HarmonyRefinement | None = None,
    ancestral: bool = True,
    scheduler: Scheduler | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    crop: CropOption = None,
) -> torch.Tensor:
    """Relight the foreground of composites to match their background (or, with an inverse pair, the reverse).

    vae: a HarmonyVAE, or a plain AutoencoderKL. unet: from `load_unet`. Each computes in its own dtype.
    composite: [B, 3, H, W], floating, -1..1, any size. mask: [B or 1, 1, H, W], 0..1; 1 = foreground. The models see it
    binarized at 0.5; its soft values blend when the background is pasted. A composite of batch 1 serves N masks.
    Where `vae.direction` and `unet.direction` are both known they must agree for a conditional decode.
    steps: sampling steps; None is what the UNet's file says for "transfer", and 5 (SPEC §2) otherwise.
    seed: image i is sampled with seed + i (or seed[i]), whatever the batch size, device or dtype. One composite gives as many results as
    there are seeds, and is encoded once.
    size: the working size. A number brings the longer side to that many pixels, keeping the aspect; "native" works at the
    image's own size; None or "auto" is the best of the sizes that the UNet was trained at (its file says), or native, but at most 1024 px,
    where that is unknown; the log tells. The working image is padded (reflected) at the right and
    bottom to what VAE and UNet divide by, and cropped back.
    detail: what becomes of the model's result. "transfer" fits a smooth colour transform to it and gives the original that light: its
    detail stays, at any size; where the UNet carries a calibration, a predicted change shrinks by what was measured of its like.
    "change" enlarges the change that the model made and adds it; "decoded" is the result itself, enlarged: the paper's protocol.
    keep_detail: the former name: True is "change", False "decoded". strength: 0..2, multiplies the change; 0 gives the composite.
    paste_background: blend by the mask over the composite; pixels whose mask is 0 (up to 1/255) then come back bit for bit.
    conditional: decode under the condition (composite, mask); None does so where the VAE can. tile: decode conditionally
    in exact tiles of that many pixels; sampling still sees the whole image. Without it, a Harmony-VAE encodes and decodes as a whole where that
    fits into the free memory, else in exact tiles, else in bounded ones (see `HarmonyVAE.decode_tiled`); so it does on the way when memory runs
    out, and the log says so.
    refinement: from `load_refinement`; runs on the decoded image at its own fixed size, and its change is brought up to the
    working size (see `refine`). ancestral: False samples without added noise. scheduler: see `sample_latents`.
    device: where to compute; None is where the UNet is. progress: called with (steps done, steps), of all crops together.
    crop: harmonize windows around the foregrounds instead of the whole image, whose side is so many times the foreground's (1..10), but not
    less than the working size; "auto" does so, by a measured factor, where the foreground is small. Needs paste_background.
    Returns: [B, 3, H, W], composite's dtype and device, -1..1 (the composite's own values where pasted).
    Raises: ValueError for shapes, ranges or options that do not fit, or a mask that marks nothing; RuntimeError when half precision
    overflowed. Source: SPEC §2, §3, §10; DESIGN.md "Contracts".
    """
    options: dict[str, Any] = dict(
        size=size, paste_background=paste_background, conditional=conditional, detail=chosen_detail(detail, keep_detail), strength=strength,
        tile=tile, refinement=refinement, device=device,
    )  # fmt: skip
    if crop is not None:
        composite, mask = check_image_and_mask(composite, mask)
        whole = working_size(*composite.shape[-2:], size, getattr(unet, "sizes", ()))
        crops = planned_crops(mask, crop, paste_background, max(whole))
        if crops:
            seeds = [generator.initial_seed() for generator in sample_generators(seed, _results(seed, len(composite)))]
            results = [
                harmonize(
                    vae, unet, one.of(composite), one.of(mask), steps, seeds if len(composite) == 1 else [seeds[one.index]], ancestral=ancestral, scheduler=scheduler,
                    progress=_part_of(progress, number, len(crops)), **{**options, "paste_background": False},  # stitching pastes it
                )
                for number, one in enumerate(crops)
            ]  # fmt: skip
            return torch.cat([stitch_crops(composite, mask, crops, of_seed) for of_seed in zip(*(result.split(1) for result in results))])
    conditioned = ConditionedSampler(vae, unet, composite, mask, **options)
    check_foreground(mask)
    warn_if_dull(mask)
    tell_size(conditioned.working_size, tuple(conditioned.original.shape[-2:]), tuple(getattr(unet, "sizes", ())))
    if conditioned.vanished():
        logger.warning(
            "mask must mark something at the working size, got a foreground smaller than a pixel there: it stays as it is. Pass crop='auto', or a larger size."
        )
    generators = sample_generators(seed, _results(seed, len(conditioned.original)))
    steps = default_steps(unet, conditioned.detail) if steps is None else steps
    return conditioned.sample(generators, steps=steps, ancestral=ancestral, scheduler=scheduler, progress=progress)


def _results(seed: int | Sequence[int], batch: int) -> int:
    """How many images come of a batch: one composite gives one for each seed."""
    return max(1, len(seed)) if batch == 1 and isinstance(seed, Sequence) else batch


def _part_of(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Progress of run `number` of `count` as progress of all."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


def default_steps(unet: UNet2DConditionModel, detail: Detail, variants: int = 1) -> int:
    """To transfer light, the steps that the UNet's file names (one gives the mean over all that the light may be); else five, SPEC §2, as
    for several variants, which would all come to that mean."""
    return getattr(unet, "steps", None) or STEPS if detail == "transfer" and variants == 1 else STEPS


def chosen_detail(detail: Detail | None, keep_detail: bool | None) -> Detail:
    """`detail`, or what the former `keep_detail` meant, or the default. Raises: ValueError when both are given."""
    if keep_detail is None:
        return DEFAULT_DETAIL if detail is None else detail
    if detail is not None:
        raise ValueError(f"detail and keep_detail must not both be given, got {detail!r} and {keep_detail!r}. Leave keep_detail out.")
    return "change" if keep_detail else "decoded"
