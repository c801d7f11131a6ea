"""Between the host's image conventions and the library's.

Host: IMAGE [B,H,W,C] in 0..1, MASK [B,H,W] (or [H,W]) in 0..1, 1 = selected. Library: [B,3,H,W] in -1..1 and [B,1,H,W] in {0,1}.
Between the two, where a background's own pixels must come back bit for bit: [B,3,H,W] in 0..1.
"""

from __future__ import annotations

import torch

from ..common.images import pad_to_multiple, resize_mask
from ..common.masks import check_foreground, one_colour, settle_mask
from ..common.pictures import check_no_photograph

# The host's bicubic resizes do not clamp: of values in 0..1 they make at most this much less or more.
OVERSHOOT = 0.45
ROUNDING = 1e-3
EMPTY_MASK = (
    "Load a mask with 'Load Image (as Mask)', or invert this one; the mask output of 'Load Image' is empty for an image without transparency."
)


def to_planes(image: torch.Tensor) -> torch.Tensor:
    """IMAGE of 3 or 4 channels -> [B,3,H,W] in 0..1; alpha is dropped, as the host's own VAE nodes do, and overshoot clamped.

    Raises: ValueError for any other shape, or values of another range.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"image must be an RGB or RGBA batch [B, H, W, 3 or 4], got {list(image.shape)}. Convert it to RGB first.")
    return _within(image[..., :3], "image").movedim(-1, 1)


def to_library(image: torch.Tensor) -> torch.Tensor:
    """IMAGE of 3 or 4 channels -> [B,3,H,W] in -1..1. Raises: as to_planes."""
    return to_planes(image) * 2 - 1


def to_image(planes: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in 0..1 -> IMAGE [B,H,W,3]."""
    return planes.movedim(1, -1)


def to_shown(images: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in -1..1 -> IMAGE [B,H,W,3] of 8-bit values as the host loads them, so that its cutting down to 8 bits gives them back."""
    return to_image(((images + 1) * 127.5).round() / 255)


def mask_for(mask: torch.Tensor, image: torch.Tensor, advice: str = EMPTY_MASK) -> torch.Tensor:
    """MASK of any size -> a soft mask [B,1,H,W] in 0..1 of the size of an image [B,3,H,W], stretched bilinearly where sizes differ.

    advice: what to do about a mask that marks nothing. Overshoot is clamped; a level of 8 bits beside black or white is black or white: ComfyUI 0.30 loads the white of a grey picture so.
    Raises: ValueError for a shape that is no mask, values of another range, a photograph in grey, or nothing marked in the whole batch.
    """
    if mask.ndim not in (2, 3) and not (mask.ndim == 4 and mask.shape[1] == 1):
        raise ValueError(f"mask must be [B, H, W], got {list(mask.shape)}. Make one with 'Convert Image to Mask' or 'Load Image (as Mask)'.")
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    mask = _within(mask.float(), "mask")
    check_foreground(mask, advice)
    mask = settle_mask(mask, ROUNDING)
    for one in mask:
        check_no_photograph(one[0].cpu().numpy(), "mask")
    return resize_mask(mask, image.shape[-2:])


def check_lit(image: torch.Tensor, mask: torch.Tensor, advice: str) -> None:
    """Refuse a soft mask [B or 1,1,H,W] whose white is black all over, or white, in images [B,3,H,W], 0..1: no light changes either.

    Load Image's own mask is so for a cut-out, being white where that is transparent. Raises: ValueError.
    """
    colour = one_colour(image, mask == 1)
    for value, name in ((0, "black"), (1, "white")):
        if colour is not None and (colour == value).all():
            raise ValueError(f"mask must mark an object, got pixels that are all {name}, as where a cut-out is transparent. {advice}")


def _within(values: torch.Tensor, name: str) -> torch.Tensor:
    """Values in 0..1, as they are, or clamped where they overshoot. Raises: ValueError for another range, or NaN."""
    low, high = (value.item() for value in torch.aminmax(values))
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # NaN too
        raise ValueError(f"{name} must lie between 0 and 1, got values from {low:g} to {high:g}. Scale it there first.")
    return values if low >= 0 and high <= 1 else values.clamp(0, 1)


def crop_to_multiple(pixels: torch.Tensor, factor: int) -> torch.Tensor:
    """[B,C,H,W] -> its centre, cut down to the last multiple of `factor`, where the host's VAE Encode cuts it."""
    height, width = (side // factor * factor for side in pixels.shape[-2:])
    top, left = (side % factor // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + height, left : left + width]


def fit_to_latent(pixels: torch.Tensor, samples: torch.Tensor, factor: int) -> torch.Tensor:
    """Bring an image [B,C,H,W] to the size that the latent [B,c,h,w] stands for.

    Odd sizes: padded where Harmony Conditioning made the latent, cropped where the host's VAE Encode did.
    Raises: ValueError when the latent belongs to an image of another size.
    """
    wanted = tuple(side * factor for side in samples.shape[-2:])
    for fitted in (pad_to_multiple(pixels, factor), crop_to_multiple(pixels, factor)):
        if fitted.shape[-2:] == wanted:
            return fitted
    height, width = pixels.shape[-2:]
    raise ValueError(
        f"image must have the size of the latent, {wanted[1]} x {wanted[0]} px, got {width} x {height} px. "
        "Connect the image that went into Harmony Conditioning, or resize it to that size."
    )
