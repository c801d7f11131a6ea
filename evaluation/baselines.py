"""What a harmonized image is compared with: the composite as it is, and mean/std colour transfer."""

from __future__ import annotations

import warnings

import numpy as np

FLAT = 1e-3  # a foreground whose Lab channel varies less than this is shifted only


def composite(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The composite itself. image: [H, W, 3] uint8. mask: [H, W] bool. Returns: a copy of the image."""
    return image.copy()


def colour_transfer(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give the foreground the background's mean and standard deviation in each channel of CIE Lab.

    image: [H, W, 3] uint8, the composite. mask: [H, W] bool, True = foreground.
    Returns: [H, W, 3] uint8; the background is the image's own, and so is everything where either region is empty.
    Raises: ValueError for other shapes or dtypes.
    Source: E. Reinhard et al., "Color Transfer between Images", 2001, in Lab rather than its l-alpha-beta.
    """
    from skimage.color import lab2rgb, rgb2lab

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}. Convert it first.")
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask must be bool {list(image.shape[:2])}, got {mask.dtype} {list(mask.shape)}. Convert it: mask >= 128.")
    result = image.copy()
    if mask.all() or not mask.any():
        return result
    lab = rgb2lab(image)
    inside, outside = lab[mask], lab[~mask]
    spread = inside.std(axis=0)
    scale = np.where(spread > FLAT, outside.std(axis=0) / np.maximum(spread, FLAT), 1.0)
    moved = (inside - inside.mean(axis=0)) * scale + outside.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours beyond sRGB are clipped, as they must be
        colours = lab2rgb(moved[None])[0]  # [1, N, 3] -> [N, 3]
    result[mask] = np.round(colours.clip(0, 1) * 255).astype(np.uint8)
    return result


BASELINES = {"composite": composite, "colour_transfer": colour_transfer}
