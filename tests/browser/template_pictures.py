"""Make the pictures of workflows/*.json for the template browser, by running them on the demo's photographs.

    .venv/bin/python -m diffharmony.tests.browser.template_pictures [harmonize compose …]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from diffharmony.tests.host.comfy_client import run_prompt
from diffharmony.tests.host.comfy_server import DEMO, REPOSITORY, ComfyServer
from diffharmony.tests.host.demo import draw_panels
from diffharmony.tests.host.prompts import added, compared, composed, in_one, node, video, without
from diffharmony.tests.made.inverse_prompts import TINY_CLASSIFIER, TINY_INVERSE, build_dataset

FRAMES_SHOWN = (3, 6, 9, 11)
STRIPS = 4
STRIP = 192, 320  # width, height
SHEET_WIDTH = 768
QUALITY = 90


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


def harmonize_picture(url: str, name: str) -> Image.Image:
    """What was pasted: before at the left of its middle, after at the right, with a line between."""
    before, after = demo("pasted"), run_prompt(url, in_one("pasted.png", "pasted_mask.png")).images["conditional"][0]
    middle = round(np.nonzero(demo("pasted_mask").any(axis=(0, 2)))[0].mean())
    joined = np.concatenate([before[:, :middle], after[:, middle:]], axis=1)
    joined[:, middle - 1 : middle + 1] = 255
    return Image.fromarray(joined)


def advanced_picture(url: str, name: str) -> Image.Image:
    harmonized = run_prompt(url, in_one("composite.png", "mask.png")).images["conditional"][0]
    return draw_panels({"composite": demo("composite"), "mask": demo("mask"), "harmonized": harmonized})


def inverse_pictures(url: str, name: str) -> Image.Image:
    result = run_prompt(url, build_dataset(TINY_CLASSIFIER, **TINY_INVERSE))
    if name == "inverse":
        return strips(demo("real"), result.images["candidates"], demo("mask").any(axis=-1))
    sheet = Image.fromarray(result.images["sheet"][0])
    return sheet.resize((SHEET_WIDTH, sheet.height * SHEET_WIDTH // sheet.width), Image.Resampling.LANCZOS)


def compose_picture(url: str, name: str) -> Image.Image:
    harmonized = run_prompt(url, composed()).images["conditional"][0]
    cutout = Image.open(DEMO / "cutout.png")
    on_grey = Image.new("RGB", cutout.size, "#bbb")
    on_grey.paste(cutout, mask=cutout.getchannel("A"))
    background = np.asarray(Image.open(DEMO / "background.jpg"))
    return draw_panels({"cut-out": np.asarray(on_grey), "background": background, "harmonized": harmonized})


def video_picture(url: str, name: str) -> Image.Image:
    """Frames of the film, above as it was."""
    shown = {"before": node("PreviewImage", images=["frames", 0]), "after": node("PreviewImage", images=["harmonize", 0])}
    images = run_prompt(url, added(without(video(), "joined", "saved"), **shown)).images
    rows = [np.concatenate([row[place] for place in FRAMES_SHOWN], axis=1) for row in (images["before"], images["after"])]
    strip = Image.fromarray(np.concatenate(rows))
    return strip.resize((SHEET_WIDTH, strip.height * SHEET_WIDTH // strip.width), Image.Resampling.LANCZOS)


def compare_picture(url: str, name: str) -> Image.Image:
    before, after = run_prompt(url, compared()).images["shown"]
    return draw_panels({"composite": demo("composite"), "composite - real": before, "harmonized - real": after})


def demo(name: str) -> np.ndarray:
    return np.asarray(Image.open(DEMO / f"{name}.png").convert("RGB"))


PICTURES = {
    "harmonize": harmonize_picture, "compose": compose_picture, "video": video_picture, "compare": compare_picture,
    "harmonize_advanced": advanced_picture, "inverse": inverse_pictures, "build_dataset": inverse_pictures,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PICTURES), metavar="name", help="of which workflows; of all by default")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        for name in names:
            path = REPOSITORY / "workflows" / f"{name}.jpg"
            PICTURES[name](server.url, name).save(path, quality=QUALITY, optimize=True)
            print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
