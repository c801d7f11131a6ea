"""Foreground masks for photographs: one connected, object-like region whose share of the picture is asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import slic

SMALLEST_SHARE, LARGEST_SHARE = 0.01, 0.5
KINDS = ("segment", "superpixels", "blob", "shape")
_KIND_PROBABILITIES = (0.40, 0.25, 0.20, 0.15)
_ATTEMPTS = 12


def draw_share(generator: np.random.Generator, low: float = SMALLEST_SHARE, high: float = LARGEST_SHARE) -> float:
    """Draw a foreground share, log-uniform in low..high."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


class RegionPainter:
    """Draws regions on one photograph; its superpixels are computed once, on first use.

    Args:
        image: [H,W,3] uint8.
    """

    def __init__(self, image: np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image must be [H,W,3] uint8, got {list(image.shape)} {image.dtype}. Convert it to 8-bit RGB first."
            )
        self.image = image
        self._superpixels: _Superpixels | None = None

    def draw(
        self, generator: np.random.Generator, low: float = SMALLEST_SHARE, high: float = LARGEST_SHARE
    ) -> tuple[np.ndarray, str] | None:
        """Draw one region whose share of the pixels is in low..high.

        Returns:
            (mask [H,W] float32 in 0..1, 1 = foreground, most pixels exactly 0 or 1; its kind), or None when twelve attempts
            missed the range.
        """
        if not 0 < low < high < 1:
            raise ValueError(f"low and high must be 0 < low < high < 1, got {low} and {high}. Give shares of the picture.")
        share = draw_share(generator, low, high)
        for _ in range(_ATTEMPTS):
            kind = str(generator.choice(KINDS, p=_KIND_PROBABILITIES))
            paint = {"segment": self._segment, "superpixels": self._union, "blob": self._blob, "shape": self._shape}[kind]
            mask = paint(generator, share)
            drawn = float((mask >= 0.5).mean())
            if low <= drawn <= high and 0.5 * share <= drawn <= 2 * share:
                return mask, kind
        return None

    def _blob(self, generator: np.random.Generator, share: float) -> np.ndarray:
        """A smooth random blob: a level set of a radial bump plus low-frequency noise."""
        height, width = self.image.shape[:2]
        grid = generator.normal(size=(7, 7)).astype(np.float32)
        noise = ndimage.zoom(grid, (height / 7, width / 7), order=3)[:height, :width]
        y, x = _relative_grid(height, width)
        centre_y, centre_x = generator.uniform(0.2, 0.8, size=2)
        stretch = np.exp(generator.uniform(-0.5, 0.5))
        distance = np.hypot((y - centre_y) * stretch, (x - centre_x) / stretch) / np.sqrt(share)
        return _edge(_main_part(_top_share(0.28 * noise - distance, share)))

    def _shape(self, generator: np.random.Generator, share: float) -> np.ndarray:
        """An ellipse or a polygon, drawn at four times the size for its edge."""
        height, width = self.image.shape[:2]
        oversampling = 4
        is_ellipse = generator.random() < 0.5
        corners = 64 if is_ellipse else int(generator.integers(3, 9))
        if is_ellipse:
            angles, radii = np.linspace(0, 2 * np.pi, corners, endpoint=False), np.ones(corners)
        else:
            angles, radii = np.sort(generator.uniform(0, 2 * np.pi, corners)), generator.uniform(0.7, 1.0, corners)
        stretch = np.exp(generator.uniform(-0.5, 0.5))
        points = np.stack([np.cos(angles) * radii * stretch, np.sin(angles) * radii / stretch])
        turn = generator.uniform(0, np.pi)
        points = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ points
        area = 0.5 * abs(np.dot(points[0], np.roll(points[1], 1)) - np.dot(points[1], np.roll(points[0], 1)))
        points *= np.sqrt(share * height * width / max(area, 1e-3))
        centre = generator.uniform(0.15, 0.85, 2) * (width, height)
        drawing = Image.new("L", (width * oversampling, height * oversampling))
        outline = [tuple(point) for point in (points.T + centre) * oversampling]
        ImageDraw.Draw(drawing).polygon(outline, fill=255)
        return np.asarray(drawing.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255

    def _superpixels_at_hand(self) -> _Superpixels:
        if self._superpixels is None:
            self._superpixels = _Superpixels(self.image)
        return self._superpixels

    def _segment(self, generator: np.random.Generator, share: float) -> np.ndarray:
        """Neighbouring superpixels of like colour; of several, the one that differs most from what is around it."""
        superpixels = self._superpixels_at_hand()
        grown = [superpixels.grow(generator, share * scale, colour_weight=1.0) for scale in (0.7, 0.85, 1.0, 1.0, 1.2, 1.4)]
        chosen = max(grown, key=superpixels.contrast)
        return _edge(_main_part(chosen[superpixels.labels]))

    def _union(self, generator: np.random.Generator, share: float) -> np.ndarray:
        """Neighbouring superpixels of any colour."""
        superpixels = self._superpixels_at_hand()
        return _edge(_main_part(superpixels.grow(generator, share, colour_weight=0.15)[superpixels.labels]))


class _Superpixels:
    """The superpixels of one picture: labels, sizes, mean colours, centres, neighbours.

    Args:
        image: [H,W,3] uint8.
    """

    def __init__(self, image: np.ndarray):
        height, width = image.shape[:2]
        self.labels = slic(image, n_segments=260, compactness=6, sigma=0.7, max_num_iter=5, start_label=0)
        flat = self.labels.ravel()
        self.sizes = np.bincount(flat).astype(np.float64)
        count = len(self.sizes)
        lab = rgb2lab(image.astype(np.float32) / 255).reshape(-1, 3)
        self.colours = np.stack([np.bincount(flat, lab[:, i], count) for i in range(3)], 1) / self.sizes[:, None]
        y, x = _relative_grid(height, width)
        y, x = np.broadcast_to(y, (height, width)), np.broadcast_to(x, (height, width))
        self.centres = np.stack([np.bincount(flat, c.ravel(), count) for c in (y, x)], 1) / self.sizes[:, None]
        self.touching = np.zeros((count, count), dtype=bool)
        for a, b in ((self.labels[:, 1:], self.labels[:, :-1]), (self.labels[1:], self.labels[:-1])):
            self.touching[a, b] = True
            self.touching[b, a] = True

    def grow(self, generator: np.random.Generator, share: float, colour_weight: float) -> np.ndarray:
        """Grow a region from a random superpixel, always adding the touching one that fits best, until it has the share.

        Returns:
            [superpixels] bool.
        """
        count = len(self.sizes)
        wanted = share * self.sizes.sum()
        start = int(generator.integers(count))
        chosen = np.zeros(count, dtype=bool)
        chosen[start] = True
        size, colour = self.sizes[start], self.colours[start].copy()
        noise = generator.uniform(0, 0.12, count)
        while size < wanted:
            border = np.flatnonzero(self.touching[chosen].any(axis=0) & ~chosen)
            if not len(border):
                break
            # Lab distances are about 100 times those of relative positions.
            cost = colour_weight * np.linalg.norm(self.colours[border] - colour, axis=1) / 50
            cost += 0.5 * np.linalg.norm(self.centres[border] - self.centres[start], axis=1) + noise[border]
            best = border[int(cost.argmin())]
            if size + self.sizes[best] - wanted > wanted - size:
                break
            chosen[best] = True
            colour = (colour * size + self.colours[best] * self.sizes[best]) / (size + self.sizes[best])
            size += self.sizes[best]
        return chosen

    def contrast(self, chosen: np.ndarray) -> float:
        """Mean Lab distance across the border of a region.

        Args:
            chosen: [superpixels] bool.
        """
        inner, outer = np.nonzero(self.touching & chosen[:, None] & ~chosen[None, :])
        if not len(inner):
            return 0.0
        return float(np.linalg.norm(self.colours[inner] - self.colours[outer], axis=1).mean())


def _relative_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    return y, x


def _top_share(field: np.ndarray, share: float) -> np.ndarray:
    return field > np.quantile(field, 1 - share)


def _main_part(region: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of a bool region and fill its holes."""
    parts, count = ndimage.label(region)
    if count > 1:
        region = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return ndimage.binary_fill_holes(region)


def _edge(region: np.ndarray) -> np.ndarray:
    """Smooth a bool region's outline and give it an edge about one pixel wide: [H,W] float32 in 0..1."""
    softness = max(1.0, min(region.shape) / 110)
    smooth = ndimage.gaussian_filter(region.astype(np.float32), softness, mode="nearest")
    return np.clip((smooth - 0.5) * 2.5 * softness + 0.5, 0, 1)
