"""Picture files as Pillow reads them, and which of them can be masks; without PyTorch, which takes seconds to import."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

# Pillow warns of damaged EXIF, with which nothing is wrong for us. Its words for it come from here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

# What Pillow raises for files that are no images, damaged, or cut off.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
SIDEWAYS = (5, 6, 7, 8)
TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
)))  # fmt: skip

WANTED = "white foreground on black, as masks are"
HALF = 128  # of 8 bits: from here on a mask's grey is foreground
NEUTRAL = 16  # how far the channels of a grey may lie apart, of 8 bits
DULL = 230  # of 8 bits: a mask nowhere as bright relights visibly less
NUMBERED = 1.5  # of 8 bits: up to here a mask's brightest grey is a number, not a grey
DRAW_IT = "White marks the foreground: draw it, or invert the mask."
SPECKS = 1e-3  # share of a picture that decides nothing
FEW_COLOURS = 64  # that a map of labels has, and hardly a photograph
# A photograph in grey: most of it is neither black nor white, and rough where a gradient is smooth.
BLACK, WHITE, MOST, ROUGH = 0.1, 0.9, 0.5, 3 / 255
LOOKED_AT, FEWEST_PIXELS = 256, 32 * 32


def open_image(path: str | os.PathLike, *, upright: bool = True) -> Image.Image:
    """Open an image file whole, in the mode that it has; `eight_bit` makes pictures of 16-bit grey.

    upright: turn it by its EXIF orientation; data sets are read as their pixels lie.
    Raises: FileNotFoundError when there is no such file; ValueError when it is not an image, or of floating values.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path.name!r} must exist, looked in {path.parent.resolve()}. Check the path.")
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE as error:
        raise ValueError(f"{path} must be a readable image, got an error ({error}). Copy or export it again.") from error
    if image.mode == "F":
        raise ValueError(f"{path} must have 8 or 16 bits per channel, got floating values. Export it as PNG.")
    turn = TURNS.get(orientation_of(image)) if upright else None
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1, upright, where it has none or its EXIF is damaged. Never an error."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # whatever Pillow stumbles over: the pixels are whole
        return 1
    return found if found in TURNS else 1


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, rounded to the nearest value; LAB as RGB, all that Pillow makes of it; any other image as it is."""
    if image.mode == "LAB":
        return image.convert("RGB")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((from_16_bit(image) * 255).round().astype(np.uint8))


def from_16_bit(image: Image.Image) -> np.ndarray:
    """16-bit grey as [H, W] float32, 0..1."""
    # Pillow opens it as I;16 (I in older versions); its own conversion to RGB would clip at 255
    return np.clip(np.asarray(image).astype(np.float32), 0, 65535) / 65535.0


def grey_mask(image: Image.Image, name: str | os.PathLike = "mask") -> Image.Image:
    """A PIL image as a mask of mode "L", white = foreground. name: what errors call it.

    Grey is the mask as it is, and so are two colours, by their luminance. Where colour is the same all over and there is transparency,
    that is the mask. A picture in colour is none: neither its brightness nor its transparency says what the foreground is.
    Raises: ValueError for a picture in colour, a photograph in grey, or grey and transparency that mark different things.
    """
    image = eight_bit(image)
    if image.mode == "PA" or image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    grey = image.convert("L")
    if image.mode not in ("1", "L"):
        colours = image.convert("RGB")
        alpha = image.getchannel("A") if "A" in image.getbands() else None
        if alpha is not None and alpha.getextrema() == (255, 255):
            alpha = None
        if alpha is not None and all(low == high for low, high in colours.getextrema()):
            grey = alpha
        elif _coloured(colours):
            raise ValueError(_in_colour(colours, alpha is not None, name))
        elif alpha is not None and alpha.getextrema()[0] < alpha.getextrema()[1] and _differ(alpha, grey):
            raise ValueError(
                f"{name} must be {WANTED}, got a grey picture whose transparency marks something else, as a cut-out has. Save the mask "
                "alone, without transparency."
            )
    histogram = grey.histogram()
    if sum(histogram[round(255 * BLACK) : round(255 * WHITE)]) > MOST * grey.width * grey.height:
        check_no_photograph(np.asarray(grey, dtype=np.float32) / 255, name)
    return grey


def check_no_photograph(grey: np.ndarray, name: str | os.PathLike) -> None:
    """Refuse grey [H, W], 0..1, that is a photograph's and no mask's: gradients, however wide, pass. Raises: ValueError."""
    step = max(1, min(grey.shape) // LOOKED_AT)
    seen = grey[::step, ::step]
    between = float(((seen > BLACK) & (seen < WHITE)).mean())
    if seen.size < FEWEST_PIXELS or min(seen.shape) < 3 or between <= MOST:
        return
    rough = [np.abs(np.diff(seen, n=2, axis=axis)).mean() for axis in (0, 1)]
    if sum(rough) / 2 > ROUGH:
        raise ValueError(
            f"{name} must be {WANTED}, got a photograph in grey: {between:.0%} of it is neither. Pass the mask itself; image and mask may be "
            "exchanged."
        )


def check_marked(mask: Image.Image, name: str | os.PathLike) -> None:
    """Refuse a mask of mode "L" that marks nothing. Raises: ValueError."""
    brightest = mask.getextrema()[1]
    if brightest < HALF:
        raise ValueError(no_foreground(name, brightest))


def dull(name: str | os.PathLike, brightest: float) -> str | None:
    """The warning of a mask whose largest value, of 255, is well under white; None for any other."""
    if brightest >= DULL:
        return None
    return f"{name} is nowhere brighter than {brightest:.0f} of 255: its foreground counts in part only. Make its foreground white."


def no_foreground(name: str | os.PathLike, brightest: float, advice: str = DRAW_IT) -> str:
    """The error of a mask that marks nothing. brightest: its largest value, of 255."""
    found = f"none: nothing is brighter than {brightest:.3g} of 255" if brightest else "none: it is black"
    if 0 < brightest <= NUMBERED:
        found, advice = "values 0 and 1, which are both black in a picture", "Scale 1 up to white: 255, or 65535 of 16 bits."
    return f"{name} must have foreground (white, at least half of the range), got {found}. {advice}"


def _coloured(colours: Image.Image) -> bool:
    """Whether an RGB image is in colour; one of two colours is taken for a drawing of a mask."""
    red, green, blue = colours.split()
    apart = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
    beyond = sum(apart.histogram()[NEUTRAL + 1 :])
    return beyond > SPECKS * colours.width * colours.height and colours.getcolors(2) is None


def _in_colour(colours: Image.Image, transparent: bool, name: str | os.PathLike) -> str:
    found, advice = "a picture in colour", "Pass the mask itself; image and mask may be exchanged."
    few = colours.getcolors(FEW_COLOURS)
    if transparent:
        found += " with transparency, as a cut-out has, or what ComfyUI's mask editor saves"
        advice = "Save the mask alone, in grey: white is what a cut-out shows, or what was painted in the mask editor."
    elif few is not None:
        found, advice = f"{len(few)} colours, as a map of labels has", "Paint the object that is meant white, and all else black."
    return f"{name} must be {WANTED}, got {found}. {advice}"


def _differ(first: Image.Image, second: Image.Image) -> bool:
    """Whether two "L" images mark different foregrounds."""
    marked = [image.point(lambda value: 255 if value >= HALF else 0) for image in (first, second)]
    return ImageChops.difference(*marked).histogram()[255] > SPECKS * first.width * first.height
