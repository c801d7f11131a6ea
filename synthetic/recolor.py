"""Illumination-like changes of a region's colours, and the rule for which of them make a usable composite.

Two kinds, as in iHarmony4: a random chain of photographic changes (exposure, temperature, gamma, saturation, ...), and a
colour transfer (mean and standard deviation in Lab) from a region of another photograph.
"""

from __future__ import annotations

import warnings

import numpy as np
from skimage.color import lab2rgb, rgb2lab

from ..common.pictures import HALF

LOWEST_FMSE, HIGHEST_FMSE = 60.0, 8000.0
LARGEST_CLIPPED_SHARE = 0.15
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def change_light(colours: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, str, float]:
    """Apply one to four random changes to a region's colours.

    Args:
        colours: [N,3] float32 sRGB in 0..1.

    Returns:
        (changed colours [N,3] float32 in 0..1; the names of the changes joined by "+"; the share of the pixels that clipped).
    """
    names = list(_CHANGES)
    weights = np.array([_CHANGES[name][1] for name in names])
    count = int(generator.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15]))
    chosen = sorted(generator.choice(len(names), size=count, replace=False, p=weights / weights.sum()))
    strength = float(generator.uniform(0.5, 2.0)) / np.sqrt(count) * 1.2
    changed = colours
    for index in chosen:
        changed = _CHANGES[names[index]][0](changed, generator, strength).astype(np.float32)
    return np.clip(changed, 0, 1), "+".join(names[i] for i in chosen), _clipped_share(changed, colours)


def transfer_colours(
    colours: np.ndarray, reference: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, str, float]:
    """Give a region the Lab mean and standard deviation of another photograph's colours (Reinhard et al. 2001), in part or whole.

    Args:
        colours: [N,3] float32 sRGB in 0..1.
        reference: [M,3] float32 sRGB in 0..1, a region of another photograph.

    Returns:
        As `change_light`.
    """
    lab, reference_lab = (rgb2lab(array[None])[0] for array in (colours, reference))
    mean, deviation = lab.mean(axis=0), lab.std(axis=0)
    amount = float(generator.uniform(0.35, 0.9))
    # A gain far from 1 makes noise or flatness rather than another light.
    gain = np.clip(reference_lab.std(axis=0) / np.maximum(deviation, 1.0), 0.5, 1.6)
    moved = (lab - mean) * (1 + amount * (gain - 1)) + mean + amount * (reference_lab.mean(axis=0) - mean)
    lightness_out = (moved[:, 0] < 0) | (moved[:, 0] > 100)
    with warnings.catch_warnings():
        # Colours outside sRGB are expected here and counted below.
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB")
        changed = lab2rgb(np.clip(moved, (0, -110, -110), (100, 110, 110))[None])[0].astype(np.float32)
    clipped = max(float(lightness_out.mean()), _clipped_share(changed, colours))
    return np.clip(changed, 0, 1), "transfer", clipped


def foreground_mse(composite: np.ndarray, real: np.ndarray, mask: np.ndarray) -> float:
    """fMSE (SPEC section 8): squared error inside the mask over 3 * mask pixels.

    Args:
        composite: [H,W,3] uint8.
        real: [H,W,3] uint8.
        mask: [H,W] uint8 0..255; foreground is at least 128.
    """
    inside = mask >= HALF
    if not inside.any():
        return 0.0
    return float(np.mean((composite[inside].astype(np.float64) - real[inside].astype(np.float64)) ** 2))


def is_usable(fmse: float, clipped_share: float) -> bool:
    """Whether a change is visible, not absurd, and did not throw much of the region away."""
    return LOWEST_FMSE <= fmse <= HIGHEST_FMSE and clipped_share <= LARGEST_CLIPPED_SHARE


def to_linear(colours: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to linear light, any shape, float32."""
    colours = np.maximum(colours, 0).astype(np.float32)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4).astype(np.float32)


def from_linear(light: np.ndarray) -> np.ndarray:
    """Linear light to sRGB, any shape, float32; values above 1 stay above 1."""
    light = np.maximum(light, 0).astype(np.float32)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def _clipped_share(changed: np.ndarray, colours: np.ndarray) -> float:
    """Share of the pixels that are outside 0..1 in a channel that was not at that limit before."""
    new = ((changed > 1.004) & (colours < 0.996)) | ((changed < -0.004) & (colours > 0.004)) | ((changed == 0) & (colours > 0.02))
    return float(new.any(axis=-1).mean())


def _signed(generator: np.random.Generator, low: float, high: float) -> float:
    """A number of size low..high of either sign."""
    return float(generator.uniform(low, high) * generator.choice((-1.0, 1.0)))


def _exposure(colours, generator, strength):
    return from_linear(to_linear(colours) * 2 ** (strength * _signed(generator, 0.35, 1.3)))


def _temperature(colours, generator, strength):
    warm = strength * _signed(generator, 0.2, 0.75)
    tint = strength * generator.uniform(-0.25, 0.25)
    gains = np.exp(np.array([warm / 2, -tint / 2, -warm / 2]))
    gains = gains / float(gains @ _LUMINANCE)
    return from_linear(to_linear(colours) * gains.astype(np.float32))


def _gamma(colours, generator, strength):
    return np.clip(colours, 0, None) ** np.exp(strength * _signed(generator, 0.15, 0.5))


def _saturation(colours, generator, strength):
    grey = (colours @ _LUMINANCE)[:, None]
    return grey + (colours - grey) * np.exp(strength * _signed(generator, 0.25, 0.8))


def _hue(colours, generator, strength):
    """Turn the chroma plane (YIQ) by an angle."""
    angle = strength * _signed(generator, 0.1, 0.5)
    cos, sin = np.cos(angle), np.sin(angle)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return colours @ (np.linalg.inv(to_yiq) @ turn @ to_yiq).T.astype(np.float32)


def _contrast(colours, generator, strength):
    centre = colours.mean() * 0.7 + 0.15
    return centre + (colours - centre) * np.exp(strength * _signed(generator, 0.15, 0.5))


def _brightness(colours, generator, strength):
    return colours + strength * _signed(generator, 0.05, 0.18)


def _curves(colours, generator, strength):
    """A smooth monotone curve for each channel, through 0 and 1."""
    bend = np.clip(strength * generator.uniform(-0.55, 0.55, 3), -0.8, 0.8).astype(np.float32)
    sway = np.clip(strength * generator.uniform(-0.08, 0.08, 3), -0.1, 0.1).astype(np.float32)
    clipped = np.clip(colours, 0, 1)
    return clipped + bend * clipped * (1 - clipped) + sway * np.sin(2 * np.pi * clipped)


# name: (function of (colours, generator, strength), how often it is drawn); applied in this order, light first, picture last
_CHANGES = {
    "exposure": (_exposure, 1.5),
    "temperature": (_temperature, 2.0),
    "gamma": (_gamma, 1.0),
    "curves": (_curves, 1.2),
    "contrast": (_contrast, 0.8),
    "brightness": (_brightness, 0.8),
    "saturation": (_saturation, 1.0),
    "hue": (_hue, 0.8),
}
