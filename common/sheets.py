"""A sheet of images, each above its label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from .images import pil_to_tensor, tensor_to_pil
from .masks import check_image

LABEL_HEIGHT = 24
TEXT_HEIGHT = 15
GAP = 4


def labelled_sheet(images: torch.Tensor, labels: Sequence[str], side: int = 256) -> torch.Tensor:
    """All images on one sheet, row by row, scaled down to `side` pixels where they are larger, each above its label.

    images: [B,3,H,W], floating, -1..1. labels: one line of text for each. Returns [1,3,h,w] float32, -1..1.
    Raises: ValueError for other shapes, or as many labels as there are not images.
    """
    check_image(images, "images")
    if len(labels) != images.shape[0]:
        raise ValueError(f"labels must be as many as images, {images.shape[0]}, got {len(labels)}. Pass one for each.")
    scale = min(1.0, side / max(images.shape[-2:]))
    height, width = (max(1, round(length * scale)) for length in images.shape[-2:])
    columns = math.ceil(math.sqrt(len(labels)))
    rows = math.ceil(len(labels) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + LABEL_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_HEIGHT)
    for index, (image, label) in enumerate(zip(images.split(1), labels)):
        left, top = index % columns * (width + GAP), index // columns * (height + LABEL_HEIGHT)
        sheet.paste(tensor_to_pil(image)[0].resize((width, height), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + width / 2, top + height + LABEL_HEIGHT / 2), label, "black", font, anchor="mm")
    return pil_to_tensor(sheet)
