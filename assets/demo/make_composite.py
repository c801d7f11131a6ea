"""Make composite.png, mask.png and real.png of this folder from scikit-learn's sample photograph china.jpg.

    .venv/bin/python assets/demo/make_composite.py

The photograph is for tests and demonstrations only; nothing is ever trained on it.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

FOLDER = Path(__file__).parent
SIZE = (384, 256)  # the tiny models were trained at 256 px
# The cypress stands right of x and below y, in pixels of that size, and is what is neither sky nor water there.
LEFT, TOP = 326, 70
# As if lit by a green lamp: what a linear sensor would see, per channel.
GAIN = (0.5, 1.5, 0.5)


def make_mask(photograph: np.ndarray) -> np.ndarray:
    """[H,W] bool of the cypress in the photograph at SIZE, [H,W,3] uint8."""
    red, green, blue = (photograph[..., channel].astype(int) for channel in range(3))
    bright = (blue >= red - 4) & (blue >= green - 10) & (red + green + blue > 430)
    rows, columns = np.mgrid[: photograph.shape[0], : photograph.shape[1]]
    dark = (columns > LEFT) & (rows > TOP) & ~bright
    foreground = ndimage.binary_opening(ndimage.binary_closing(dark, iterations=3), iterations=2)
    parts, _ = ndimage.label(foreground)
    return parts == np.bincount(parts[foreground]).argmax()


def relight(photograph: np.ndarray) -> np.ndarray:
    linear = (photograph / 255.0) ** 2.2
    return (np.clip(linear * GAIN, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def main() -> None:
    real = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE, Image.Resampling.LANCZOS)
    mask = Image.fromarray((make_mask(np.asarray(real)) * 255).astype(np.uint8))
    composite = Image.composite(Image.fromarray(relight(np.asarray(real))), real, mask)
    for name, picture in (("composite", composite), ("mask", mask), ("real", real)):
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
