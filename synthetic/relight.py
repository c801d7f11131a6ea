"""Light as it changes in photographs: a region's colours under another illumination, in linear light.

White balance along the daylight locus and across it, exposure, contrast, a gradient of light over the region, coloured bounce
and haze; from no change at all through changes that one hardly sees to strong ones. Values above 1 clip, as in a camera.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .recolor import from_linear, to_linear

NO_CHANGE_SHARE = 0.12
LOWEST_STRENGTH, HIGHEST_STRENGTH = 0.12, 2.2
_WHITE_KELVIN = 6504.0  # D65, sRGB's white
_MIRED = 1e6
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# CIE XYZ to linear sRGB (IEC 61966-2-1)
_XYZ_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


@dataclasses.dataclass(frozen=True)
class Relighting:
    """One change of light. The defaults change nothing.

    gains: [3] factors of linear red, green and blue, of luminance 1: the light's colour.
    exposure: stops. contrast: factor of the distances from the region's mean, in linear light or, with `in_stops`, in its
    logarithm. gradient: [2] stops per region width, rightwards and downwards. gradient_gains: [3], what one stop of the gradient
    multiplies the colours with besides. bounce: [3] linear light that falls on the side that `bounce_from` ([2], unit length)
    points to, as a share of what is there. haze: [3] linear light that lies over the region, darkening what is behind by
    `haze_cover`.
    """

    gains: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(3))
    exposure: float = 0.0
    contrast: float = 1.0
    in_stops: bool = False
    gradient: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    gradient_gains: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(3))
    bounce: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    bounce_from: np.ndarray = dataclasses.field(default_factory=lambda: np.array([1.0, 0.0]))
    haze: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    haze_cover: float = 0.0
    kinds: tuple[str, ...] = ()

    def apply(self, light: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The colours under the changed light, neither clipped at 1 nor below 0.

        light: [N,3] linear light of the region, 0..1. places: [N,2] right and down, in region sizes from its centre.
        Returns: [N,3] float32.
        """
        changed = light * (self.gains * 2.0**self.exposure)
        if self.gradient.any():
            stops = places @ self.gradient
            stops = stops - stops.mean()
            changed = changed * 2.0 ** stops[:, None] * self.gradient_gains ** stops[:, None]
        if self.bounce.any():
            facing = np.clip(places @ self.bounce_from + 0.5, 0, 1)
            changed = changed * (1 + facing[:, None] * self.bounce)
        if self.contrast != 1.0:
            changed = _with_contrast(changed, self.contrast, self.in_stops)
        if self.haze_cover:
            changed = changed * (1 - self.haze_cover) + self.haze
        return np.maximum(changed, 0).astype(np.float32)


def draw_strength(generator: np.random.Generator) -> float:
    """How strong a change is: 0 for a share of NO_CHANGE_SHARE, else log-uniform in LOWEST_STRENGTH..HIGHEST_STRENGTH."""
    if generator.random() < NO_CHANGE_SHARE:
        return 0.0
    return float(np.exp(generator.uniform(np.log(LOWEST_STRENGTH), np.log(HIGHEST_STRENGTH))))


def draw_relighting(generator: np.random.Generator, strength: float) -> Relighting:
    """Draw a change of light.

    Args:
        strength: 0 changes nothing; 1 is a change as of the sun by the shade.
    """
    if strength <= 0:
        return Relighting()
    drawn: dict = {}
    has = {name: generator.random() < share for name, share in _SHARES.items()}
    if not any(has.values()):
        has["white balance" if generator.random() < 0.5 else "exposure"] = True
    if has["white balance"]:
        drawn["gains"] = light_gains(float(np.clip(generator.normal(0, 75 * strength), -100, 180)), generator.normal(0, 0.10 * strength))
    if has["exposure"]:
        drawn["exposure"] = float(generator.normal(0, 0.75 * strength))
    if has["contrast"]:
        drawn["contrast"] = float(np.exp(generator.normal(0, 0.28 * strength)))
        drawn["in_stops"] = bool(generator.random() < 0.5)
    if has["gradient"]:
        angle = generator.uniform(0, 2 * np.pi)
        drawn["gradient"] = generator.normal(0, 0.9 * strength) * np.array([np.cos(angle), np.sin(angle)])
        drawn["gradient_gains"] = light_gains(generator.normal(0, 30), 0.0)
    if has["bounce"]:
        angle = generator.uniform(0, 2 * np.pi)
        drawn["bounce_from"] = np.array([np.cos(angle), np.sin(angle)])
        drawn["bounce"] = generator.uniform(0, 0.5 * strength) * generator.dirichlet(np.ones(3)) * 1.5
    if has["haze"]:
        cover = float(min(generator.uniform(0, 0.15 * strength), 0.5))
        drawn["haze_cover"] = cover
        drawn["haze"] = cover * generator.uniform(0.2, 0.9) * light_gains(generator.normal(0, 40), 0.0)
    return Relighting(kinds=tuple(name for name, chosen in has.items() if chosen), **drawn)


def relight(
    colours: np.ndarray, places: np.ndarray, generator: np.random.Generator, strength: float | None = None
) -> tuple[np.ndarray, str, float]:
    """Give a region's colours another light, of a drawn strength or that given.

    Args:
        colours: [N,3] float32 sRGB in 0..1.
        places: [N,2] where each is, as `region_places` says.
        strength: as in `draw_relighting`; None draws one.

    Returns:
        (changed colours [N,3] float32 in 0..1; the kinds of change joined by "+", or "none"; the share of the pixels that clipped).
    """
    relighting = draw_relighting(generator, draw_strength(generator) if strength is None else strength)
    if not relighting.kinds:
        return colours, "none", 0.0
    light = relighting.apply(to_linear(colours), places)
    clipped = float(((light > 1.0) & (colours < 0.996)).any(axis=-1).mean())
    return from_linear(np.clip(light, 0, 1)), "+".join(relighting.kinds), clipped


def region_places(region: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Where pixels lie in a region: [N,2] float32, right and down, 0 its centre and -0.5..0.5 from one side to the other.

    Args:
        region: [H,W] bool, the region whose bounding box counts.
        chosen: [H,W] bool, the N pixels asked about, in row order.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    y, x = np.nonzero(chosen)
    along = [(at - (ends[0] + ends[-1]) / 2) / max(ends[-1] - ends[0], 1) for at, ends in ((x, columns), (y, rows))]
    return np.clip(np.stack(along, axis=1), -0.75, 0.75).astype(np.float32)


def light_gains(mireds: float, tint: float) -> np.ndarray:
    """What a change of the light's colour multiplies linear red, green and blue with: [3], of luminance 1.

    Args:
        mireds: the change along the daylight locus in 1e6 / kelvin from 6504 K; positive is warmer.
        tint: logarithm of green's gain over that of red and blue.

    Source: CIE 15 (daylight locus, 4000 K and above); Kim et al. 2002 (Planckian locus, below); von Kries adaptation in sRGB.
    """
    kelvin = _MIRED / np.clip(_MIRED / _WHITE_KELVIN + mireds, 45.0, 500.0)
    gains = _light_colour(kelvin) / _light_colour(_WHITE_KELVIN) * np.exp([-tint / 3, tint * 2 / 3, -tint / 3])
    return gains / (gains @ _LUMINANCE)


def _light_colour(kelvin: float) -> np.ndarray:
    """Linear sRGB [3] of a light on the daylight locus, of luminance 1."""
    k = 1e3 / kelvin
    if kelvin >= 4000:
        low = kelvin <= 7000
        x = 0.244063 + 0.09911 * k + 2.9678 * k**2 - 4.6070 * k**3 if low else 0.237040 + 0.24748 * k + 1.9018 * k**2 - 2.0064 * k**3
        y = -3.0 * x**2 + 2.870 * x - 0.275
    else:
        # moved on to the daylight locus' end, so that 4000 K is one colour from both sides
        x, y = _planckian(kelvin)
        end, daylight_x = _planckian(4000.0), 0.244063 + 0.09911 / 4 + 2.9678 / 16 - 4.6070 / 64
        x, y = x + daylight_x - end[0], y + (-3.0 * daylight_x**2 + 2.870 * daylight_x - 0.275) - end[1]
    return np.maximum(_XYZ_TO_RGB @ np.array([x / y, 1.0, (1 - x - y) / y]), 0.02)


def _planckian(kelvin: float) -> tuple[float, float]:
    """Chromaticity of a black body of 1667..4000 K."""
    k = 1e3 / kelvin
    x = -0.2661239 * k**3 - 0.2343589 * k**2 + 0.8776956 * k + 0.179910
    if kelvin <= 2222:
        return x, -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    return x, -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867


def _with_contrast(light: np.ndarray, contrast: float, in_stops: bool) -> np.ndarray:
    """Distances from the mean times `contrast`, in linear light, or those of the luminances in stops."""
    if not in_stops:
        mean = light.mean(axis=0)
        return mean + (light - mean) * contrast
    luminance = np.maximum(light @ _LUMINANCE, 1e-3)
    mean = np.exp(np.log(luminance).mean())
    return light * ((luminance / mean) ** (contrast - 1))[:, None]


# how often each kind takes part in a change
_SHARES = {"white balance": 0.85, "exposure": 0.75, "contrast": 0.6, "gradient": 0.2, "bounce": 0.15, "haze": 0.15}
