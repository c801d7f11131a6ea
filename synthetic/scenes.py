"""Procedural scenes: several shaded objects before a backdrop under one illumination, and one object relit by another.

The scene is a stack of maps (albedo, normal, shadow, gloss, object number) drawn once; `shade` turns the maps into a picture
for one illumination. Real and composite come from the same maps, so nothing but the light on one object differs.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .recolor import from_linear

_OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Illumination:
    """One light and its surroundings: direction [3] of unit length towards the light, colours [3] in linear light."""

    direction: np.ndarray
    light: np.ndarray
    ambient: np.ndarray


class Scene(NamedTuple):
    """A relit scene: `real` and `composite` [H,W,3] uint8, `mask` [H,W] uint8 0..255 with 255 = the relit object."""

    real: np.ndarray
    composite: np.ndarray
    mask: np.ndarray


class _Maps(NamedTuple):
    """Everything but the light; float32 but for `owner`."""

    albedo: np.ndarray  # [H,W,3] linear, 0..1
    normal: np.ndarray  # [H,W,3] unit length, z towards the viewer
    lit: np.ndarray  # [H,W] 0..1; 0 = in shadow
    gloss: np.ndarray  # [H,W] 0..0.5
    owner: np.ndarray  # [H,W] uint8; 0 = backdrop, else the object's number


def draw_scene(size: int, generator: np.random.Generator, low: float = 0.01, high: float = 0.5) -> Scene | None:
    """Draw one scene of size x size pixels with one object relit.

    Args:
        size: side in pixels.
        generator: the only source of randomness.
        low, high: limits of the relit object's share of the pixels.

    Returns:
        The scene, or None when no object of it has a share in low..high.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32, got {size}. Choose the picture's side in pixels.")
    illumination = _draw_illumination(generator)
    maps = _draw_maps(size * _OVERSAMPLING, illumination, generator)
    shares = np.bincount(maps.owner.ravel())[1:] / maps.owner.size
    candidates = 1 + np.flatnonzero((shares >= low) & (shares <= high))
    if not len(candidates):
        return None
    weights = np.sqrt(shares[candidates - 1])
    chosen = int(generator.choice(candidates, p=weights / weights.sum()))
    belongs = maps.owner == chosen
    real_light = _shade(maps, illumination)
    exposure = float(generator.uniform(0.32, 0.6)) / max(float(np.percentile(real_light[::4, ::4], 80)), 1e-3)
    relit_light = real_light.copy()
    window = _bounding_box(belongs)
    relit = _shade(_Maps(*(part[window] for part in maps)), _another(illumination, generator))
    relit_light[window][belongs[window]] = relit[belongs[window]]
    grain = generator.normal(0, generator.uniform(0, 0.012), (size, size, 1)).astype(np.float32)
    real, composite = (
        np.round(np.clip(from_linear(_soft_clip(_reduce(light * exposure))) + grain, 0, 1) * 255).astype(np.uint8)
        for light in (real_light, relit_light)
    )
    mask = np.round(_reduce(belongs[..., None].astype(np.float32))[..., 0] * 255).astype(np.uint8)
    return Scene(real, composite, mask)


def _draw_illumination(generator: np.random.Generator) -> Illumination:
    angle, height = generator.uniform(0, 2 * np.pi), generator.uniform(0.35, 1.2)
    direction = np.array([np.cos(angle) * np.cos(height), -abs(np.sin(angle)) * np.cos(height), np.sin(height)])
    light = _tinted(generator, 0.45) * generator.uniform(0.7, 1.3)
    return Illumination(direction, light, _tinted(generator, 0.3) * generator.uniform(0.12, 0.5))


def _another(illumination: Illumination, generator: np.random.Generator) -> Illumination:
    """Another light on the same thing: colour and strength change, its direction a little and only sometimes."""
    direction = illumination.direction
    if generator.random() < 0.3:
        direction = direction + generator.normal(0, 0.25, 3)
        direction = direction / np.linalg.norm(direction)
    factor = np.exp(generator.uniform(-0.9, 0.9))
    light = illumination.light * _tinted(generator, 0.7) * factor
    ambient = illumination.ambient * _tinted(generator, 0.5) * factor * np.exp(generator.uniform(-0.5, 0.5))
    return Illumination(direction, light, ambient)


def _tinted(generator: np.random.Generator, amount: float) -> np.ndarray:
    """A light colour [3] near white: warm or cool, a little green or magenta."""
    warm, tint = generator.normal(0, amount), generator.normal(0, amount / 4)
    return np.exp(np.array([warm / 2, -tint, -warm / 2])).clip(0.3, 3.0)


def _shade(maps: _Maps, illumination: Illumination) -> np.ndarray:
    """Lambert and a highlight: [H,W,3] float32 linear light."""
    facing = np.clip(maps.normal @ illumination.direction.astype(np.float32), 0, None) * maps.lit
    half = illumination.direction + np.array([0.0, 0.0, 1.0])
    highlight = np.clip(maps.normal @ (half / np.linalg.norm(half)).astype(np.float32), 0, None) ** 30 * maps.gloss * maps.lit
    light = illumination.light.astype(np.float32)
    return maps.albedo * (facing[..., None] * light + illumination.ambient.astype(np.float32)) + highlight[..., None] * light


def _draw_maps(size: int, illumination: Illumination, generator: np.random.Generator) -> _Maps:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    palette = _palette(generator)
    albedo = _textured(palette, x, y, generator)
    bumps = _noise(x, y, generator, int(generator.integers(4, 40))) * generator.uniform(0, 0.02) * size / 8
    slope_y, slope_x = np.gradient(bumps)
    normal = np.stack([-slope_x, -slope_y - generator.uniform(-0.3, 0.3), np.ones_like(x)], -1)
    normal = _unit(normal)
    lit, gloss, owner = np.ones_like(x), np.zeros_like(x), np.zeros(x.shape, dtype=np.uint8)
    reach = generator.uniform(0.04, 0.14)
    softness = 2 * round(generator.uniform(0.006, 0.045) * size) + 1
    for number in range(1, int(generator.integers(3, 8)) + 1):
        window, inside, object_normal = _OBJECTS[int(generator.integers(len(_OBJECTS)))](x, y, generator)
        if not inside.any():
            continue
        shift = -illumination.direction[:2] * reach / max(float(illumination.direction[2]), 0.3) * size
        _cast_shadow(lit, window, inside, round(shift[1]), round(shift[0]), softness, generator.uniform(0.6, 0.95))
        albedo[window][inside] = _textured(palette, x[window], y[window], generator)[inside]
        normal[window][inside] = object_normal[inside]
        lit[window][inside] = 1
        gloss[window][inside] = generator.uniform(0, 0.5) if generator.random() < 0.5 else 0
        owner[window][inside] = number
    return _Maps(albedo, normal, lit, gloss, owner)


def _bounding_box(inside: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _cast_shadow(lit, window, inside, down: int, right: int, softness: int, depth: float) -> None:
    """Darken `lit` [H,W] where an object's outline, moved by whole pixels and blurred, falls.

    Args:
        window: the slices of `lit` that `inside` [h,w] bool, the object, covers.
        softness: odd width in pixels of the two box filters that blur, nearly a Gaussian.
        depth: 0..1, how much of the light the shadow's core loses.
    """
    shadow = np.pad(inside.astype(np.float32), softness)
    shadow = ndimage.uniform_filter(ndimage.uniform_filter(shadow, softness, mode="constant"), softness, mode="constant")
    places = []
    for at, move, length, side in zip(window, (down, right), shadow.shape, lit.shape):
        start = at.start + move - softness
        into = slice(max(start, 0), max(min(start + length, side), 0))
        out_of = slice(max(-start, 0), max(min(length, side - start), 0))
        places.append((into, out_of))
    into, out_of = zip(*places)
    lit[into] *= 1 - depth * shadow[out_of]


def _palette(generator: np.random.Generator) -> np.ndarray:
    """Six surface colours [6,3] in linear light, of related hues in half of the scenes."""
    spread = 0.12 if generator.random() < 0.5 else 0.5
    hue = (generator.random() + generator.uniform(-spread, spread, 6)) % 1
    saturation, value = generator.uniform(0.05, 0.5, 6), generator.uniform(0.2, 0.95, 6)
    wheel = np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return ((1 - saturation[:, None] * (1 - wheel)) * value[:, None]) ** 2.2


def _textured(palette: np.ndarray, x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A surface [H,W,3] float32 of two palette colours mixed by a pattern, with fine grain."""
    first, second = palette[generator.choice(len(palette), 2, replace=False)].astype(np.float32)
    pattern = int(generator.integers(5))
    angle, frequency = generator.uniform(0, np.pi), generator.uniform(4, 28)
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    if pattern == 0:
        mix = np.full_like(x, generator.uniform(0, 0.15))
    elif pattern == 1:
        mix = np.clip(along, 0, 1)
    elif pattern == 2:
        mix = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * frequency * along + 2 * _noise(x, y, generator, 4)))
    elif pattern == 3:
        mix = 0.5 + 0.5 * np.tanh(8 * np.sin(np.pi * frequency * along) * np.sin(np.pi * frequency * across))
    else:
        mix = 0.5 + 0.5 * np.tanh(2 * _noise(x, y, generator, int(generator.integers(4, 24))))
    grain = 1 + generator.uniform(0, 0.12) * _noise(x, y, generator, 128)
    return np.clip((first + (second - first) * mix[..., None]) * grain[..., None], 0.01, 0.95).astype(np.float32)


def _noise(x: np.ndarray, y: np.ndarray, generator: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise [H,W] float32 of about unit variance, with that many cells along the picture's side."""
    grid = generator.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    row, below = _between(y[:, 0] * cells)
    column, right = _between(x[0] * cells)
    rows = grid[row] * (1 - below[:, None]) + grid[row + 1] * below[:, None]
    rows = np.ascontiguousarray(rows.T)
    return 1.5 * (rows[column] * (1 - right[:, None]) + rows[column + 1] * right[:, None]).T


def _between(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cell numbers and smooth positions 0..1 inside them."""
    index = at.astype(int)
    part = at - index
    return index, (part * part * (3 - 2 * part)).astype(np.float32)


# Each kind of object: (x [H,W], y [H,W] in 0..1, generator) -> (its window, inside [h,w] bool, normal [h,w,3] float32).


def _ellipsoid(x, y, generator):
    """A sphere, stretched."""
    centre_x, centre_y = generator.uniform(0.1, 0.9), generator.uniform(0.1, 0.9)
    wide, high = _radii(generator, 0.06, 0.42)
    window = _window(x, centre_x, centre_y, wide, high)
    u, v = (x[window] - centre_x) / wide, (y[window] - centre_y) / high
    square = u * u + v * v
    return window, square < 1, np.stack([u, v, np.sqrt(np.clip(1 - square, 0, 1))], -1)


def _blob(x, y, generator):
    """A lump with a wavy outline, its normals from the distance to the outline."""
    centre_x, centre_y = generator.uniform(0.15, 0.85), generator.uniform(0.15, 0.85)
    wide, high = _radii(generator, 0.08, 0.42)
    waves = [(wave, generator.uniform(0, 0.5 / wave), generator.uniform(0, 2 * np.pi)) for wave in range(2, 6)]
    largest = 1 + sum(amount for _, amount, _ in waves)
    window = _window(x, centre_x, centre_y, wide * largest, high * largest)
    u, v = (x[window] - centre_x) / wide, (y[window] - centre_y) / high
    angle = np.arctan2(v, u)
    outline = sum((amount * np.sin(wave * angle + phase) for wave, amount, phase in waves), np.float32(1))
    ratio = np.minimum(np.hypot(u, v) / outline, 1)
    height = np.sqrt(1 - ratio**2 * 0.98) * (wide * len(x))
    if min(height.shape) < 2:
        return window, ratio < 1, np.broadcast_to(np.float32([0, 0, 1]), (*height.shape, 3))
    slope_y, slope_x = np.gradient(height)
    return window, ratio < 1, _unit(np.stack([-slope_x, -slope_y, np.ones_like(height)], -1))


def _box(x, y, generator):
    """A box seen from a corner: a top and two sides, each flat."""
    centre_x, centre_y = generator.uniform(0.15, 0.85), generator.uniform(0.15, 0.85)
    width = float(np.exp(generator.uniform(np.log(0.07), np.log(0.3))))
    tall, lean = width * generator.uniform(0.6, 1.8), generator.uniform(0.25, 0.75)
    depth, edge = 0.35 * width, 2 * lean - 1
    window = _window(x, centre_x, centre_y, width, tall / 2 + depth)
    u, v = (x[window] - centre_x) / width, y[window] - centre_y
    ridge = np.where(u < edge, (u + 1) / (2 * lean), (1 - u) / (2 - 2 * lean)) * depth
    inside = (np.abs(u) < 1) & (v > -ridge - tall / 2) & (v < ridge + tall / 2)
    left, right, up = _unit(np.float32([[-0.6, 0.05, 0.8], [0.7, 0.05, 0.7], [0.0, -0.9, 0.45]]))
    sides = np.where((u < edge)[..., None], left, right)
    return window, inside, np.where((v <= ridge - tall / 2)[..., None], up, sides)


def _radii(generator: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    """A width and a height: log-uniform in low..high, stretched one way or the other."""
    radius, stretch = np.exp(generator.uniform(np.log(low), np.log(high))), np.exp(generator.uniform(-0.3, 0.3))
    return float(radius * stretch), float(radius / stretch)


def _window(x: np.ndarray, centre_x: float, centre_y: float, wide: float, high: float) -> tuple[slice, slice]:
    """The slices of a square picture that hold a thing with these half sides, all in 0..1."""
    size = len(x)
    return tuple(
        slice(max(int((centre - half) * size) - 1, 0), min(int((centre + half) * size) + 2, size))
        for centre, half in ((centre_y, high), (centre_x, wide))
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.einsum("...i,...i", vectors, vectors))[..., None]


_OBJECTS = (_ellipsoid, _blob, _box)


def _reduce(image: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels of [2H,2W,C]."""
    height, width, channels = image.shape
    step = _OVERSAMPLING
    return image.reshape(height // step, step, width // step, step, channels).mean(axis=(1, 3))


def _soft_clip(light: np.ndarray) -> np.ndarray:
    """Compress light above 0.7 smoothly towards 1."""
    excess = np.clip(light - 0.7, 0, None)
    return np.minimum(light, 0.7) + 0.3 * (1 - np.exp(-excess / 0.3))
