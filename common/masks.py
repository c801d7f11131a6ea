"""Foreground masks: 1 = foreground, 0 = background (SPEC §1, §2)."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F

from .pictures import DRAW_IT, dull, no_foreground

logger = logging.getLogger("diffharmony")

THRESHOLD = 0.5
LEVEL, ROUNDING = 1 / 255, 1e-6  # a step of 8 bits, as float32 has it

ROWS = 64  # looked at together

# beyond this an image is in another range altogether (0..255), not merely overshooting after a resize
LARGEST_VALUE = 1.5


def binarize_mask(mask: torch.Tensor) -> torch.Tensor:
    """Bring a soft mask to exactly 0 or 1: a value of at least 0.5 is foreground.

    mask: any shape, floating dtype or bool, 0..1. Returns: the same shape, {0, 1}, the same dtype (bool gives float32).
    Source: SPEC §2 ("thresholded at 0.5").
    """
    dtype = mask.dtype if mask.is_floating_point() else torch.float32
    return (mask >= THRESHOLD).to(dtype) if mask.dtype != torch.bool else mask.to(dtype)


def settle_mask(mask: torch.Tensor, rounding: float = ROUNDING) -> torch.Tensor:
    """A soft mask whose values of a level of 8 bits beside black or white are 0 or 1: any shape, floating, 0..1; returns the same.

    Tools write black as 1 or white as 254, and a background that is to come back bit for bit has weight 0.
    """
    for value, level in ((0.0, LEVEL), (1.0, 1 - LEVEL)):
        found = (mask >= level - rounding) & (mask <= level + rounding)
        if found.any():  # most masks have none, and may be large
            mask = mask.masked_fill(found, value)
    return mask


def mask_to_latent(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Binarize a mask at image size, then bring it to latent size by nearest neighbour.

    mask: [B, 1, H, W], 0..1. size: latent (height, width). Returns: [B, 1, height, width], {0, 1}, the mask's dtype.
    Source: SPEC §2 (eq. 1's down(M)).
    """
    return F.interpolate(binarize_mask(mask), size=tuple(size), mode="nearest")


def check_image(image: torch.Tensor, name: str = "composite") -> None:
    """Refuse anything but an image batch: [B, 3, H, W], floating dtype, nothing empty.

    Raises: TypeError for something that is not a tensor; ValueError naming the rule, what was found and what to do.
    """
    _check_tensor(image, name, channels=3)
    if not image.is_floating_point():
        raise ValueError(f"{name} must be a floating tensor in [-1, 1], got {image.dtype}. Convert it: x.float() / 127.5 - 1.")


def check_range(image: torch.Tensor, name: str) -> None:
    """Refuse values that are no image's in -1..1; a little overshoot, as of a resize, passes. Raises: ValueError, for NaN too."""
    low, high = (value.item() for value in torch.aminmax(image))
    if not (low >= -LARGEST_VALUE and high <= LARGEST_VALUE):  # NaN too
        raise ValueError(f"{name} must lie in [-1, 1], got values from {low:g} to {high:g}. Scale 8-bit values: x / 127.5 - 1.")


def check_mask(mask: torch.Tensor, name: str = "mask") -> None:
    """Refuse anything but a mask batch: [B, 1, H, W], floating dtype or bool, values in 0..1.

    Raises: TypeError for something that is not a tensor; ValueError naming the rule, what was found and what to do.
    """
    _check_tensor(mask, name, channels=1)
    if mask.dtype == torch.bool:
        return
    if not mask.is_floating_point():
        raise ValueError(f"{name} must be a floating or bool tensor in [0, 1], got {mask.dtype}. Divide an 8-bit mask by 255.")
    low, high = (value.item() for value in torch.aminmax(mask))
    # NaN fails the comparison too
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:g} to {high:g}. Scale it, or clamp it first.")


def check_image_and_mask(
    image: torch.Tensor, mask: torch.Tensor, name: str = "composite"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check an (image, mask) pair and bring both to one batch size, on the image's device.

    image: [B, 3, H, W], floating, -1..1. mask: [B or 1, 1, H, W], 0..1 (soft values are kept, see `settle_mask`). An image of batch 1
    serves N masks as well. Returns: image [B, 3, H, W] as given, mask [B, 1, H, W] float32.
    Raises: ValueError for a wrong shape or range, for other sizes, or batch sizes that do not go together.
    """
    check_image(image, name)
    check_mask(mask)
    check_size("mask", mask, name, image)
    mask = settle_mask(mask.to(device=image.device, dtype=torch.float32))
    image, mask = same_batch({name: image, "mask": mask})
    return image, mask


def check_size(name: str, pixels: torch.Tensor, of: str, image: torch.Tensor, advice: str = "Resize one of them first.") -> None:
    """Refuse a tensor [..., H, W] of another height or width than an image's. Raises: ValueError."""
    if pixels.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"{name} must be as large as {of} ({image.shape[-1]} x {image.shape[-2]} px, width x height), "
            f"got {pixels.shape[-1]} x {pixels.shape[-2]} px. {advice}"
        )


def check_batch(name: str, found: int, batch: int) -> None:
    """Refuse a batch that is neither 1 nor `batch`. Raises: ValueError."""
    if found not in (1, batch):
        rule = "1" if batch == 1 else f"1 or {batch}"
        raise ValueError(f"{name} must have batch {rule}, got {found}. Pass one for all, or one for each.")


def same_batch(named: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Repeat tensors of batch 1 so that all have the largest batch. Raises: ValueError where one has neither."""
    batch = max(tensor.shape[0] for tensor in named.values())
    for name, tensor in named.items():
        check_batch(name, tensor.shape[0], batch)
    return [tensor.expand(batch, *tensor.shape[1:]) for tensor in named.values()]


def check_foreground(mask: torch.Tensor, advice: str = DRAW_IT, name: str = "mask") -> None:
    """Refuse a mask in 0..1 (or a batch) that marks nothing. Raises: ValueError."""
    if not (mask >= THRESHOLD).any():
        raise ValueError(no_foreground(name, mask.max().item() * 255, advice))


def one_colour(image: torch.Tensor, where: torch.Tensor) -> torch.Tensor | None:
    """The colour [3] that all pixels of images [B,3,H,W] have where a bool mask [B or 1,1,H,W] says so; None for several colours, or no pixel."""
    colour = None
    for one, there in zip(image, where.expand(len(image), -1, -1, -1)):
        for pixels, marked in zip(one.split(ROWS, dim=1), there[0].split(ROWS)):  # most images differ in the first
            found = pixels[:, marked]
            if not found.numel():
                continue
            colour = found[:, :1] if colour is None else colour
            if (found != colour).any():
                return None
    return None if colour is None else colour[:, 0]


def check_behind(image: torch.Tensor, alpha: torch.Tensor, name: str, advice: str) -> None:
    """Refuse a cut-out in a composite's place: images [B,3,H,W] that have one colour wherever their opacity [B,1,H,W], 0..1, is 0.

    Raises: ValueError.
    """
    if one_colour(image, alpha == 0) is not None:
        raise ValueError(f"{name} must have its background where it is transparent, got one colour there, as a cut-out has. {advice}")


def warn_if_dull(mask: torch.Tensor, name: str = "mask") -> None:
    """Log a warning for a mask in 0..1 (or a batch) whose brightest value is well under white."""
    if words := dull(name, mask.max().item() * 255):
        logger.warning(words)


def _check_tensor(value: torch.Tensor, name: str, channels: int) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor [B, {channels}, H, W], got {type(value).__name__}. Convert it first.")
    if value.ndim != 4 or value.shape[1] != channels:
        raise ValueError(
            f"{name} must have shape [B, {channels}, H, W], got {list(value.shape)}. "
            "Add the batch dimension with x[None], and move channels to dimension 1."
        )
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(value.shape)}. Pass at least one image of one pixel.")
