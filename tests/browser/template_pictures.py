"""Make the pictures of workflows/inverse.json and workflows/build_dataset.json for the template browser, by running both.

    .venv/bin/python -m diffharmony.tests.browser.template_pictures

harmonize.jpg and harmonize_advanced.jpg are made by `demo.py --template-pictures`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from diffharmony.tests.host.comfy_client import run_prompt
from diffharmony.tests.host.comfy_server import REPOSITORY, ComfyServer
from diffharmony.tests.made.inverse_prompts import TINY_CLASSIFIER, TINY_INVERSE, build_dataset

STRIPS = 4
STRIP = 192, 320  # width, height
SHEET_WIDTH = 768


def strips(real: np.ndarray, candidates: list[np.ndarray], mask: np.ndarray) -> Image.Image:
    """The masked object, enlarged, in the photograph and in the candidates that are farthest from it and from each other, side by side."""
    rows, columns = (np.nonzero(mask.any(axis=axis))[0] for axis in (1, 0))
    height = min(mask.shape[0], round(1.15 * (rows[-1] - rows[0] + 1)))
    width = round(height * STRIP[0] / STRIP[1])
    top, left = (
        int(np.clip((place[0] + place[-1] - side) // 2, 0, whole - side))
        for place, side, whole in ((rows, height, mask.shape[0]), (columns, width, mask.shape[1]))
    )
    shown = [real]
    while len(shown) < STRIPS:
        nearest = [min(np.abs(candidate[mask].astype(float) - other[mask]).mean() for other in shown) for candidate in candidates]
        shown.append(candidates[int(np.argmax(nearest))])
    parts = [Image.fromarray(one[top : top + height, left : left + width]).resize(STRIP, Image.Resampling.LANCZOS) for one in shown]
    return Image.fromarray(np.concatenate([np.asarray(part) for part in parts], axis=1))


def main() -> None:
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        result = run_prompt(server.url, build_dataset(TINY_CLASSIFIER, **TINY_INVERSE))
    mask = np.asarray(Image.open(REPOSITORY / "assets" / "demo" / "mask.png").convert("L")) > 127
    real = np.asarray(Image.open(REPOSITORY / "assets" / "demo" / "real.png").convert("RGB"))
    sheet = Image.fromarray(result.images["sheet"][0])
    pictures = {
        "inverse": strips(real, result.images["candidates"], mask),
        "build_dataset": sheet.resize((SHEET_WIDTH, sheet.height * SHEET_WIDTH // sheet.width), Image.Resampling.LANCZOS),
    }
    for name, picture in pictures.items():
        path = REPOSITORY / "workflows" / f"{name}.jpg"
        picture.save(path, quality=92)
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
