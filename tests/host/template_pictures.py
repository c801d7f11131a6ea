"""Make the pictures of workflows/inverse.json and workflows/build_dataset.json for the template browser, by running both.

    .venv/bin/python -m diffharmony.tests.host.template_pictures

harmonize.jpg is made by `demo.py --template-picture`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from diffharmony.tests.host.comfy_client import run_prompt
from diffharmony.tests.host.comfy_server import REPOSITORY, ComfyServer
from diffharmony.tests.host.inverse_prompts import build_dataset

STRIPS = 4
SHEET_WIDTH = 768


def strips(candidates: list[np.ndarray], mask: np.ndarray) -> Image.Image:
    """The masked object as some candidates have it, from the darkest to the brightest, side by side in a picture of a candidate's size."""
    width = mask.shape[1] // STRIPS
    middle = int(np.nonzero(mask.any(axis=0))[0].mean())
    left = min(max(middle - width // 2, 0), mask.shape[1] - width)
    order = np.argsort([candidate[mask].mean() for candidate in candidates])
    shown = order[np.linspace(0, len(order) - 1, STRIPS).round().astype(int)]
    return Image.fromarray(np.concatenate([candidates[index][:, left : left + width] for index in shown], axis=1))


def main() -> None:
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        result = run_prompt(server.url, build_dataset())
    mask = np.asarray(Image.open(REPOSITORY / "assets" / "demo" / "mask.png").convert("L")) > 127
    sheet = Image.fromarray(result.images["sheet"][0])
    pictures = {
        "inverse": strips(result.images["candidates"], mask),
        "build_dataset": sheet.resize((SHEET_WIDTH, sheet.height * SHEET_WIDTH // sheet.width), Image.Resampling.LANCZOS),
    }
    for name, picture in pictures.items():
        path = REPOSITORY / "workflows" / f"{name}.jpg"
        picture.save(path, quality=92)
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
