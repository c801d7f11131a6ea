"""Between the host's image conventions and the library's.

Host: IMAGE [B,H,W,C] in 0..1, MASK [B,H,W] (or [H,W]) in 0..1, 1 = selected. Library: [B,3,H,W] in -1..1 and [B,1,H,W] in {0,1}.
Between the two, where a background's own pixels must come back bit for bit: [B,3,H,W] in 0..1.
"""

from __future__ import annotations

import torch

from ..common.images import pad_to_multiple, resize_mask

ROUNDING = 1e-3
# ComfyUI 0.30 loads the white of a grey picture as this.
WHITE = 254 / 255
EMPTY_MASK = (
    "Load a mask with 'Load Image (as Mask)', or invert this one; the mask output of 'Load Image' is empty for an image without transparency."
)


def to_planes(image: torch.Tensor) -> torch.Tensor:
    """IMAGE of 3 or 4 channels -> [B,3,H,W] in 0..1; alpha is dropped, as the host's own VAE nodes do.

    Raises: ValueError for any other shape.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"image must be an RGB or RGBA batch [B, H, W, 3 or 4], got {list(image.shape)}. Convert it to RGB first.")
    return image[..., :3].movedim(-1, 1)


def to_library(image: torch.Tensor) -> torch.Tensor:
    """IMAGE of 3 or 4 channels -> [B,3,H,W] in -1..1. Raises: as to_planes."""
    return to_planes(image) * 2 - 1


def to_image(planes: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in 0..1 -> IMAGE [B,H,W,3]."""
    return planes.movedim(1, -1)


def to_shown(images: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in -1..1 -> IMAGE [B,H,W,3] of 8-bit values as the host loads them, so that its cutting down to 8 bits gives them back."""
    return to_image(((images + 1) * 127.5).round() / 255)


def mask_for(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """MASK of any size -> a soft mask [B,1,H,W] in 0..1 of the size of an image [B,3,H,W], stretched bilinearly where sizes differ.

    Raises: ValueError for a shape that is no mask, or values outside 0..1.
    """
    if mask.ndim not in (2, 3) and not (mask.ndim == 4 and mask.shape[1] == 1):
        raise ValueError(f"mask must be [B, H, W], got {list(mask.shape)}. Make one with 'Convert Image to Mask' or 'Load Image (as Mask)'.")
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    low, high = mask.min().item(), mask.max().item()
    # Resized and blurred masks overshoot by rounding. NaN fails the comparison too.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(f"mask must lie between 0 and 1, got values from {low:g} to {high:g}. Clamp it first.")
    mask = torch.where(mask >= WHITE - ROUNDING, 1.0, mask.clamp(0, 1))
    return resize_mask(mask, image.shape[-2:])


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
