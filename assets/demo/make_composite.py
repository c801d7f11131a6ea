"""Make composite.png, mask.png and real.png of this folder from scikit-learn's sample photograph china.jpg.

    .venv/bin/python assets/demo/make_composite.py

The photograph is for tests and demonstrations only; nothing is ever trained on it.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask
from sklearn.datasets import load_sample_image

FOLDER = Path(__file__).parent
SIZE = (384, 256)  # the tiny models were trained at 256 px
# The pagoda, loosely: (x, y) in the photograph's 640 x 427 pixels. Within it, everything that is not sky or water.
OUTLINE = [
    (205, 26), (218, 30), (222, 60), (268, 98), (326, 118), (322, 136), (300, 142), (302, 160), (334, 170), (330, 188), (322, 192),
    (324, 228), (330, 238), (356, 248), (352, 264), (346, 270), (346, 305), (352, 318), (374, 334), (368, 350), (336, 366), (318, 400),
    (290, 398), (262, 388), (220, 386), (196, 366), (150, 346), (110, 336), (74, 344), (72, 296), (60, 268), (88, 248), (96, 230),
    (100, 190), (80, 184), (84, 168), (116, 158), (118, 140), (92, 132), (96, 112), (150, 96), (190, 62), (192, 34),
]  # fmt: skip
# As if it stood in the blue shade of dusk: what a linear sensor would see, per channel.
GAIN = (0.30, 0.52, 1.05)


def make_mask(photograph: np.ndarray) -> np.ndarray:
    inside = polygon2mask(photograph.shape[:2], [(y, x) for x, y in OUTLINE])
    red, green, blue = (photograph[..., channel].astype(int) for channel in range(3))
    sky = (blue >= red - 4) & (blue >= green - 10) & (red + green + blue > 480)
    foreground = ndimage.binary_closing(inside & ~sky, iterations=3) & inside
    parts, _ = ndimage.label(foreground)
    return parts == np.bincount(parts[foreground]).argmax()


def relight(photograph: np.ndarray) -> np.ndarray:
    linear = (photograph / 255.0) ** 2.2
    return (np.clip(linear * GAIN, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def main() -> None:
    photograph = load_sample_image("china.jpg")
    mask = Image.fromarray((make_mask(photograph) * 255).astype(np.uint8)).resize(SIZE, Image.Resampling.BOX)
    mask = mask.point(lambda value: 255 if value >= 128 else 0)
    real = Image.fromarray(photograph).resize(SIZE, Image.Resampling.LANCZOS)
    composite = Image.composite(Image.fromarray(relight(np.asarray(real))), real, mask)
    for name, picture in (("composite", composite), ("mask", mask), ("real", real)):
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
