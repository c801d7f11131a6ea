"""Make this folder's pictures: composite.png, mask.png and real.png from scikit-learn's sample photograph china.jpg, and from two photographs
of assets/photos pasted.png and pasted_mask.png, a sheep that was photographed elsewhere, and what it is composed of: cutout.png, background.jpg.

    .venv/bin/python assets/photos/fetch.py PHOTOS && .venv/bin/python assets/demo/make_composite.py --photos PHOTOS

The photographs are for tests and demonstrations only; nothing is ever trained on them.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from diffharmony.common.images import load_image, resize_image, resize_mask, tensor_to_pil
from diffharmony.synthetic.compose import compose_foreground

FOLDER = Path(__file__).parent
SIZE = (384, 256)  # the tiny models were trained at 256 px
# The pavilion stands in these columns and rows, in pixels of that size, and is what is neither sky nor water there.
COLUMNS, ROWS = (38, 225), (12, 205)
# As if the evening sun shone on it alone: what a linear sensor would see, per channel.
GAIN = (1.2, 0.8, 0.5)
SHEEP, VILLAGE = "gcompris-qt-data/animals-sheep.jpg", "scratch/Outdoors-village.jpg"
PLACE = dict(x=0.64, y=0.76, scale=0.38)
CUTOUT_HEIGHT = 280


def make_mask(photograph: np.ndarray) -> np.ndarray:
    """[H,W] bool of the pavilion in the photograph at SIZE, [H,W,3] uint8."""
    red, green, blue = (photograph[..., channel].astype(int) for channel in range(3))
    bright = (blue >= red - 4) & (blue >= green - 10) & (red + green + blue > 430)
    rows, columns = np.mgrid[: photograph.shape[0], : photograph.shape[1]]
    foreground = (columns > COLUMNS[0]) & (columns < COLUMNS[1]) & (rows > ROWS[0]) & (rows < ROWS[1]) & ~bright
    foreground = ndimage.binary_opening(foreground)
    parts, _ = ndimage.label(foreground)
    return ndimage.binary_fill_holes(parts == np.bincount(parts[foreground]).argmax())


def relight(photograph: np.ndarray) -> np.ndarray:
    linear = (photograph / 255.0) ** 2.2
    return (np.clip(linear * GAIN, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def sheep_alpha(photograph: np.ndarray) -> np.ndarray:
    """[H,W] 0..1 of the sheep, which alone is not green on its meadow, [H,W,3] uint8."""
    red, green, blue = (photograph[..., channel].astype(float) for channel in range(3))
    wool = (green - (red + blue) / 2 < 9) & (photograph.mean(axis=-1) > 30)
    wool = ndimage.binary_closing(ndimage.binary_opening(wool, iterations=2), iterations=5)
    parts, _ = ndimage.label(wool)
    whole = ndimage.binary_fill_holes(parts == np.bincount(parts[wool]).argmax())
    return np.clip(ndimage.gaussian_filter(ndimage.binary_erosion(whole).astype(np.float32), 1.0), 0, 1)


def save_cutout(photograph: torch.Tensor, alpha: torch.Tensor) -> None:
    """The sheep alone, with the green of its meadow in the fringe, as a tool that cuts out leaves it."""
    rows, columns = (alpha[0, 0].any(dim=axis).nonzero() for axis in (1, 0))
    place = (..., slice(int(rows[0]) - 4, int(rows[-1]) + 5), slice(int(columns[0]) - 4, int(columns[-1]) + 5))
    size = [round(side * CUTOUT_HEIGHT / photograph[place].shape[-2]) for side in photograph[place].shape[-2:]]
    colour, alpha = resize_image(photograph[place], size), resize_mask(alpha[place], size)
    cutout = tensor_to_pil(torch.where(alpha > 0, colour, -1.0))[0]
    cutout.putalpha(tensor_to_pil(alpha.expand(-1, 3, -1, -1) * 2 - 1)[0].convert("L"))
    cutout.save(FOLDER / "cutout.png", optimize=True)


def make_pasted(photos: Path) -> None:
    shutil.copyfile(photos / VILLAGE, FOLDER / "background.jpg")
    alpha = torch.from_numpy(sheep_alpha(np.asarray(Image.open(photos / SHEEP).convert("RGB"))))[None, None]
    save_cutout(load_image(photos / SHEEP), alpha)
    composite, mask = compose_foreground(load_image(photos / SHEEP), alpha, load_image(photos / VILLAGE), **PLACE)
    for name, picture in (("pasted", composite), ("pasted_mask", mask.expand(-1, 3, -1, -1) * 2 - 1)):
        tensor_to_pil(picture)[0].convert("L" if name.endswith("mask") else "RGB").save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder that assets/photos/fetch.py filled; without it pasted.png stays as it is")
    photos = parser.parse_args().photos
    if photos is not None:
        make_pasted(photos)
    real = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE, Image.Resampling.LANCZOS)
    mask = Image.fromarray((make_mask(np.asarray(real)) * 255).astype(np.uint8))
    composite = Image.composite(Image.fromarray(relight(np.asarray(real))), real, mask)
    for name, picture in (("composite", composite), ("mask", mask), ("real", real)):
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
