"""`make demo`: two composite photographs, harmonized by a headless ComfyUI with this repository's nodes and tiny models: an object that was
pasted, and for figures one that was relit, whose real photograph is known.

    .venv/bin/python -m diffharmony.tests.host.demo [--seed 0] [--out out]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffharmony.evaluation import measure
from diffharmony.tests.host import prompts
from diffharmony.tests.host.comfy_client import PromptFailed, run_prompt
from diffharmony.tests.host.comfy_server import DEMO, REPOSITORY, ComfyServer

HARMONIZED = "harmonized"
PASTED = {"composite": "pasted", "mask": "pasted_mask"}
RELIT = {name: name for name in ("composite", "mask", "real")}
PANEL_HEIGHT = 256
LABEL_HEIGHT = 26
GAP = 6


def harmonize(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run the workflow in a ComfyUI of its own; pictures [H,W,3] uint8 by the name that their panel has, of the pasted object and of the relit."""
    found = []
    with ComfyServer(REPOSITORY / ".cache" / "demo") as server:
        server.add_demo()
        for files in (PASTED, RELIT):
            result = run_prompt(server.url, prompts.in_one(f"{files['composite']}.png", f"{files['mask']}.png", seed=seed))
            pictures = {name: np.asarray(Image.open(DEMO / f"{file}.png").convert("RGB")) for name, file in files.items()}
            found.append({**pictures, HARMONIZED: result.images["conditional"][0]})
    return tuple(found)


def stacked(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:number])))
    return sheet


def draw_panels(pictures: dict[str, np.ndarray]) -> Image.Image:
    """The pictures side by side, each under its name."""
    panels = [Image.fromarray(picture) for picture in pictures.values()]
    panels = [panel.resize((panel.width * PANEL_HEIGHT // panel.height, PANEL_HEIGHT), Image.Resampling.LANCZOS) for panel in panels]
    sheet = Image.new("RGB", (sum(panel.width + GAP for panel in panels) - GAP, LABEL_HEIGHT + PANEL_HEIGHT), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for name, panel in zip(pictures, panels):
        sheet.paste(panel, (left, LABEL_HEIGHT))
        draw.text((left + panel.width / 2, LABEL_HEIGHT / 2), name, "black", ImageFont.load_default(16), anchor="mm")
        left += panel.width + GAP
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    print("Starting a headless ComfyUI and harmonizing assets/demo/pasted.png and composite.png ...", flush=True)
    started = time.monotonic()
    pasted, pictures = harmonize(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet = arguments.out / "before_after.png"
    shown = ((pasted, ("composite", "mask", HARMONIZED)), (pictures, ("composite", HARMONIZED, "real")))
    stacked([draw_panels({name: found[name] for name in names}) for found, names in shown]).save(sheet)
    for name, shown in (("pasted", pasted), ("harmonized", pictures)):
        Image.fromarray(shown[HARMONIZED]).save(arguments.out / f"{name}.png")

    print(f"Done in {time.monotonic() - started:.0f} s.\n\n{'relit: against the real one':30}{'PSNR':>8}{'MSE':>9}{'fMSE':>9}")
    for name in ("composite", HARMONIZED):
        trio = [Image.fromarray(pictures[key]) for key in (name, "real", "mask")]
        figures = measure(*trio, size=None, real_background=False)
        print(f"{name:30}{figures.psnr:8.2f}{figures.mse:9.1f}{figures.fmse:9.1f}")
    print(
        f"\nPicture: {sheet} (above: an object that was pasted; below: one that was relit)\n"
        "Next:    make host                 ComfyUI in your browser, with this workflow under Templates > diffharmony\n"
        "         .venv/bin/diffharmony --help   harmonize your own picture, train, evaluate\n"
        "         README.md                 what the figures mean, and full-size models"
    )


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, FileNotFoundError, PromptFailed) as error:
        sys.exit(f"error: {error}")
