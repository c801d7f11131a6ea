"""Images: reading, writing, resizing, padding, and pasting the background back."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .files import check_writable, written_whole
from .masks import check_foreground
from .pictures import IMAGE_SUFFIXES, check_no_photograph, eight_bit, from_16_bit, grey_mask, open_image


def load_image(path: str | os.PathLike) -> torch.Tensor:
    """Read an image file: [1, 3, H, W] float32 in [-1, 1].

    Turned upright by its EXIF orientation. Grey and palette images become RGB; transparency is dropped, as ComfyUI's
    LoadImage drops it; 16-bit grey keeps its precision.
    Raises: FileNotFoundError when there is no such file; ValueError when it is not an image.
    """
    image = open_image(path)
    if image.mode.startswith("I"):
        grey = torch.from_numpy(from_16_bit(image))
        return (grey * 2 - 1)[None, None].expand(1, 3, -1, -1).contiguous()
    return pil_to_tensor(image)


def load_mask(path: str | os.PathLike, *, empty: bool = False) -> torch.Tensor:
    """Read a foreground mask file: [1, 1, H, W] float32 in [0, 1], soft values kept; white is foreground. What may be one: `grey_mask`.

    empty: take one that marks nothing too, as a frame of a video may.
    Raises: FileNotFoundError when there is no such file; ValueError when it is not an image, a picture instead of a mask, or marks nothing.
    """
    image = open_image(path)
    if image.mode.startswith("I"):
        grey = from_16_bit(image)
        check_no_photograph(grey, path)
        mask = torch.from_numpy(grey)[None, None]
    else:
        mask = pil_to_mask(image, path)
    if not empty:
        check_foreground(mask, name=str(path))
    return mask


def load_alpha(path: str | os.PathLike) -> torch.Tensor:
    """The opacity of an image file as a foreground mask: [1, 1, H, W] float32 in [0, 1], 1 where it is opaque.

    Raises: FileNotFoundError, ValueError as load_image; ValueError for an image without transparency.
    """
    image = open_image(path)
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise ValueError(f"{path} must have transparency where there is no mask, got mode {image.mode}. Pass a mask: white is the foreground.")
    alpha = image.convert("RGBA").getchannel("A")
    return torch.from_numpy(np.asarray(alpha, dtype=np.float32) / 255.0)[None, None]


def pil_to_tensor(image: Image.Image) -> torch.Tensor:
    """A PIL image as [1, 3, H, W] float32 in [-1, 1]."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()  # HWC -> 1CHW


def pil_to_mask(image: Image.Image, name: str | os.PathLike = "mask") -> torch.Tensor:
    """A PIL image as a mask, [1, 1, H, W] float32 in [0, 1]. Raises: as `grey_mask`."""
    return torch.from_numpy(np.asarray(grey_mask(image, name), dtype=np.float32) / 255.0)[None, None]


def tensor_to_pil(image: torch.Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] as B 8-bit PIL images, rounded to the nearest value."""
    pixels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(item.permute(1, 2, 0).numpy()) for item in pixels]  # CHW -> HWC


def save_image(image: torch.Tensor, path: str | os.PathLike, info: dict[str, Any] | None = None) -> None:
    """Write one image as 8 bits per channel, whole or not at all; the format follows the suffix.

    image: [1, 3, H, W] or [3, H, W], floating, -1..1 (clamped, then rounded). info: see `image_info`.
    Raises: ValueError for another shape, NaN, or an unknown suffix; FileNotFoundError when the folder does not exist.
    """
    check_image_path(path)
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"image to save must have shape [1, 3, H, W], got {list(image.shape)}. Save a batch one by one.")
    if not torch.isfinite(image).all():
        raise ValueError("image to save must be finite, got NaN or infinity. Run in float32 or bfloat16.")
    options = {"quality": 95} if Path(path).suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    options.update(info or {})
    with written_whole(path) as temporary:
        tensor_to_pil(image)[0].save(temporary, **options)


def check_image_path(path: str | os.PathLike) -> None:
    """Refuse a path that `save_image` could not write to, before any work is done.

    Raises: ValueError for a suffix that names no image format, or a folder; FileNotFoundError when the folder does not exist;
    PermissionError when it cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image to write must be a file, got the folder {path}. Name a file, in that folder say.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"image name must end in one of {', '.join(IMAGE_SUFFIXES)}, got {path.name!r}. Rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder of {path.name!r} must exist, looked in {path.parent.resolve()}. Create it first.")
    check_writable(path.parent, f"folder of {path.name!r}")


def paste_background(harmonized: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Lay the harmonized foreground over the composite: mask * harmonized + (1 - mask) * composite.

    harmonized, composite: [B, 3, H, W]. mask: [B, 1, H, W] in [0, 1], soft edges blend. Returns: [B, 3, H, W] in the
    composite's dtype; a pixel where the mask is 0 is the composite's own, bit for bit.
    """
    weight = mask.float()
    blend = weight * harmonized.float() + (1 - weight) * composite.float()
    return torch.where(mask == 0, composite, blend.to(composite.dtype))


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize [B, C, H, W] in [-1, 1] to (height, width): bicubic with antialias, clamped to [-1, 1], float32."""
    return resize_values(image, size).clamp(-1, 1)


def resize_values(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize [B, C, H, W] of any range (a difference of images) to (height, width): bicubic with antialias, float32."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values.float()
    return F.interpolate(values.float(), size=tuple(size), mode="bicubic", antialias=True)


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a soft mask [B, 1, H, W] in [0, 1] to (height, width): bilinear with antialias, float32, in [0, 1]."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask.float()
    return F.interpolate(mask.float(), size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def blur(values: torch.Tensor, width: float) -> torch.Tensor:
    """Gaussian blur of [B, 1, H, W], float32; `width` is its standard deviation in pixels, and beyond the edge everything is 0."""
    reach = math.ceil(3 * width)
    kernel = torch.exp(-torch.arange(-reach, reach + 1, device=values.device).square() / (2 * width**2))
    kernel = kernel / kernel.sum()
    values = F.conv2d(values, kernel[None, None, :, None], padding=(reach, 0))
    return F.conv2d(values, kernel[None, None, None, :], padding=(0, reach))


def pad_to_multiple(values: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad [B, C, H, W] at the right and bottom to multiples of `multiple`; crop back with [..., :H, :W].

    Reflects where the image is larger than the padding, else repeats the edge.
    """
    height, width = values.shape[-2:]
    for length, pad in ((width, lambda n: (0, n, 0, 0)), (height, lambda n: (0, 0, 0, n))):
        missing = -length % multiple
        if missing:
            values = F.pad(values, pad(missing), mode="reflect" if missing < length else "replicate")
    return values


def read_picture(path: Path) -> Image.Image:
    """An image of a data set or a prediction, 8 bits per channel, as published code reads it: an EXIF orientation turns
    nothing, since the pictures of a pair lie pixel on pixel.

    Raises: FileNotFoundError, ValueError as open_image.
    """
    return eight_bit(open_image(path, upright=False))


def read_mask(path: Path) -> Image.Image:
    """A mask of a data set, of mode "L", as `grey_mask` has it. Read as read_picture. Raises: as both."""
    return grey_mask(read_picture(path), path)


def image_info(path: str | os.PathLike) -> dict[str, Any]:
    """What `save_image` can carry over from an image file: its RGB colour profile and its resolution, where it has them.

    Returns: {"icc_profile": bytes, "dpi": (x, y)} or less. Profiles of other colour spaces do not fit what we write.
    Raises: FileNotFoundError, ValueError as `load_image` does.
    """
    found = open_image(path).info
    info: dict[str, Any] = {}
    profile = found.get("icc_profile")
    # bytes 16-19 of an ICC header name the colour space of the pixels
    if isinstance(profile, bytes) and profile[16:20] == b"RGB ":
        info["icc_profile"] = profile
    dpi = found.get("dpi")
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < value < 2**16 for value in dpi):
        info["dpi"] = tuple(float(value) for value in dpi)
    return info
