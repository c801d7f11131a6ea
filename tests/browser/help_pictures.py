"""Make the pictures of web/docs/ that show a node at work in ComfyUI's own frontend, by running the example workflows on the demo's photographs.

    .venv/bin/python -m diffharmony.tests.browser.help_pictures [DiffHarmonyTransfer …]

Needs Chromium. Those of Crop Foreground and Difference View show photographs alone; Composite Foreground's was made by hand.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from diffharmony.common.images import load_image, load_mask, tensor_to_pil
from diffharmony.diffusion.crop import crop_foregrounds
from diffharmony.evaluation.difference import difference_view
from diffharmony.refinement import save_refinement
from diffharmony.tests.browser.author_workflow import ARRANGE, numbered
from diffharmony.tests.browser.examples import EXAMPLES
from diffharmony.tests.browser.frontend import QUEUE, open_frontend
from diffharmony.tests.host.comfy_server import DEMO, REPOSITORY, ComfyServer
from diffharmony.tests.host.demo import draw_panels
from diffharmony.tests.host.prompts import TINY, added, changed, harmonize, in_one, node, without
from diffharmony.tests.made.refinement import small_refinement

LARGEST_BYTES, WIDTH = 40_000, 760
MARGIN = 14  # around the nodes, beside their titles
PLACE = 160  # from the window's left and upper edge, where nothing lies over the graph


class Scene(NamedTuple):
    """A prompt, where its nodes stand, whether it is run."""

    prompt: dict
    layout: dict
    runs: bool = True


def of_example(name: str) -> Scene:
    return Scene(EXAMPLES[name].prompt(), CLOSE.get(name, EXAMPLES[name].layout))


def cropped() -> Scene:
    """The composite's windows harmonized and stitched."""
    prompt = changed(without(in_one(composite="pasted.png", mask="pasted_mask.png"), "conditional"), harmonize={"image": ["crop", 0], "mask": ["crop", 1]})
    prompt = added(
        prompt,
        crop=node("DiffHarmonyCropForeground", image=["composite", 0], mask=["mask", 0], context=2.0, min_size=128),
        stitch=node("DiffHarmonyStitchForeground", images=["harmonize", 0], crops=["crop", 2]),
        shown=node("PreviewImage", images=["stitch", 0]),
    )
    layout = {
        "composite": ((0, 0), (300, 330), None), "mask": ((0, 400), (300, 330), None), "crop": ((340, 0), (270, 130), None),
        "harmonize": ((340, 230), (380, 720), None), "stitch": ((760, 0), (240, 90), None), "shown": ((1040, 0), (380, 330), "Whole image"),
    }  # fmt: skip
    return Scene(prompt, layout)


def refined() -> Scene:
    """Tiled decode and refinement; there is no bundled refinement model: a small one without training is only shown, not run."""
    prompt = changed(harmonize(**TINY), decode={"paste_background": False})
    prompt["decode"] = node("DiffHarmonyVAEDecodeTiled", **prompt["decode"]["inputs"], tile_size=512)
    prompt = added(
        without(prompt, "plain", "plain_decode"),
        refinement=node("DiffHarmonyLoadRefinement", refinement_name="refinement.safetensors"),
        refine=node(
            "DiffHarmonyRefine", refinement=["refinement", 0], images=["decode", 0], composite=["composite", 0], mask=["mask", 0], paste_background=True,
        ),
    )  # fmt: skip
    prompt = changed(prompt, conditional={"images": ["refine", 0]})
    layout = {
        "composite": ((-800, 0), (300, 330), None), "mask": ((-800, 400), (300, 330), None), "vae": ((-440, 0), (300, 60), None),
        "unet": ((-440, 160), (300, 80), None), "conditioning": ((-440, 330), (280, 110), None), "sampler": ((0, 250), (270, 270), None),
        "decode": ((310, 250), (270, 150), None), "refinement": ((310, 80), (270, 60), None), "refine": ((620, 80), (270, 130), None),
        "conditional": ((930, 80), (280, 330), None),
    }  # fmt: skip
    return Scene(prompt, layout, runs=False)


# Narrower than the examples' own, which keep their links apart.
CLOSE = {
    "harmonize_advanced": {
        "composite": ((40, 80), (300, 330), None), "mask": ((40, 470), (300, 350), None), "vae": ((400, 80), (340, 90), None),
        "unet": ((400, 220), (340, 110), None), "working": ((400, 470), (340, 130), None), "conditioning": ((800, 80), (290, 110), None),
        "sampler": ((1130, 80), (290, 270), None), "decode": ((1460, 80), (290, 130), None), "transfer": ((1460, 470), (290, 170), None),
        "conditional": ((1800, 80), (420, 560), "Harmonized image"),
    },
    "build_dataset": {
        "real": ((40, 80), (300, 330), "Real photograph"), "mask": ((40, 460), (300, 350), None), "vae": ((380, 80), (330, 90), None),
        "unet": ((380, 220), (330, 110), None), "candidates": ((750, 80), (300, 520), None), "classifier": ((380, 380), (330, 90), None),
        "score": ((1090, 80), (250, 80), None), "sheet": ((1090, 220), (360, 380), "Candidates and their scores"),
        "select": ((1490, 80), (280, 220), None), "chosen": ((1490, 360), (280, 240), "The most unharmonious"),
        "pair": ((1810, 80), (290, 520), None),
    },
    "compare": {
        "composite": ((-800, 0), (260, 330), None), "mask": ((-800, 400), (260, 330), None), "harmonize": ((-480, 0), (380, 720), None),
        "both": ((0, 80), (240, 100), "Composite, then harmonized"), "real": ((0, 240), (240, 290), "Real photograph"),
        "measured": ((300, 80), (240, 170), None), "figures": ((600, 80), (340, 240), "Figures of 0: composite, 1: harmonized"),
        "differences": ((300, 900), (240, 170), None), "shown": ((600, 900), (340, 340), None),
    },
}  # fmt: skip
SCENES = {"crop": cropped, "refine": refined, **{name: (lambda name=name: of_example(name)) for name in EXAMPLES}}

# node id -> the scene, and what of it is shown
SHOWN = {
    "DiffHarmonyHarmonizeImage": ("harmonize", ("composite", "harmonize", "conditional")),
    "DiffHarmonyLoadHarmonyVAE": ("harmonize_advanced", ("vae", "conditioning")),
    "DiffHarmonyLoadHarmonizationUNet": ("harmonize_advanced", ("unet", "working")),
    "DiffHarmonyWorkingSize": ("harmonize_advanced", ("composite", "mask", "unet", "working")),
    "DiffHarmonyConditioning": ("harmonize_advanced", ("vae", "unet", "working", "conditioning", "sampler")),
    "DiffHarmonyVAEDecode": ("harmonize_advanced", ("sampler", "decode")),
    "DiffHarmonyTransfer": ("harmonize_advanced", ("decode", "transfer", "conditional")),
    "DiffHarmonyLoadInverseUNet": ("build_dataset", ("unet", "vae", "candidates")),
    "DiffHarmonyInverseCandidates": ("build_dataset", ("real", "vae", "unet", "candidates")),
    "DiffHarmonyLoadHarmonyClassifier": ("build_dataset", ("classifier", "candidates", "score")),
    "DiffHarmonyHarmonyScore": ("build_dataset", ("score", "sheet")),
    "DiffHarmonySelectMostUnharmonious": ("build_dataset", ("select", "chosen", "sheet")),
    "DiffHarmonySaveHarmonizationPair": ("build_dataset", ("select", "chosen", "pair")),
    "DiffHarmonyMetrics": ("compare", ("real", "both", "measured", "figures")),
    "DiffHarmonyStitchForeground": ("crop", ("crop", "harmonize", "stitch", "shown")),
    "DiffHarmonyVAEDecodeTiled": ("refine", ("sampler", "decode")),
    "DiffHarmonyLoadRefinement": ("refine", ("refinement", "refine")),
    "DiffHarmonyRefine": ("refine", ("refinement", "decode", "refine", "conditional")),
}


def window_photographs() -> Image.Image:
    image, mask = load_image(DEMO / "pasted.png"), load_mask(DEMO / "pasted_mask.png")
    (crop,) = crop_foregrounds(mask, smallest=128)
    whole, window, window_mask = (tensor_to_pil(pixels)[0] for pixels in (image, crop.of(image), crop.of(mask).expand(-1, 3, -1, -1) * 2 - 1))
    ImageDraw.Draw(whole).rectangle((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height), outline="red", width=2)
    shown = {"image": whole, "window": window, "its mask": window_mask}
    return draw_panels({name: np.asarray(picture) for name, picture in shown.items()})


def difference_photographs() -> Image.Image:
    composite, real = (load_image(DEMO / f"{name}.png") for name in ("composite", "real"))
    shown = {"image": composite, **{name: difference_view(composite, real, 4.0, signed=name == "signed") for name in ("absolute", "signed")}}
    return draw_panels({name: np.asarray(tensor_to_pil(picture)[0]) for name, picture in shown.items()})


PHOTOGRAPHS = {"DiffHarmonyCropForeground": window_photographs, "DiffHarmonyDifference": difference_photographs}

# Brings some nodes to one place of the window; returns where they lie.
LOOK = """
({ids, place, margin}) => {
  const nodes = ids.map(id => app.graph.getNodeById(id));
  const [left, top] = [0, 1].map(axis => Math.min(...nodes.map(n => n.pos[axis])) - margin - (axis ? 2 * LiteGraph.NODE_TITLE_HEIGHT : 0));
  const [right, bottom] = [0, 1].map(axis => Math.max(...nodes.map(n => n.pos[axis] + n.size[axis])) + margin);
  const scale = Math.min(1, (window.innerWidth - 2 * place) / (right - left), (window.innerHeight - 1.5 * place) / (bottom - top));
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [place / scale - left, place / scale - top];
  app.canvas.setDirty(true, true);
  const area = app.canvas.canvas.getBoundingClientRect();
  return {x: area.x + place, y: area.y + place, width: (right - left) * scale, height: (bottom - top) * scale};
}
"""


def save(image: Image.Image, node_id: str) -> None:
    path = REPOSITORY / "web" / "docs" / f"{node_id}.jpg"
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    for quality in range(90, 30, -5):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LARGEST_BYTES:
            break
    print(path.relative_to(REPOSITORY), path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", default=[*PHOTOGRAPHS, *SHOWN], metavar="id", help="of which nodes; all of them by default")
    ids = parser.parse_args().ids
    for node_id in filter(PHOTOGRAPHS.get, ids):
        save(PHOTOGRAPHS[node_id](), node_id)
    wanted = {node_id: SHOWN[node_id] for node_id in ids if node_id not in PHOTOGRAPHS}
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        server.add_demo()
        save_refinement(small_refinement(), Path(base) / "refinement.safetensors")
        server.add_model("harmony_refinement", Path(base) / "refinement.safetensors")
        with open_frontend(server.url) as page:
            for name in dict.fromkeys(scene for scene, _ in wanted.values()):
                scene = SCENES[name]()
                api, numbers = numbered(scene.prompt)
                layout = {numbers[one]: place for one, place in scene.layout.items()}
                note = {"pos": [-3000, -3000], "size": [10, 10], "title": "", "text": ""}
                page.evaluate("app.clean()")  # what the scene before made
                page.evaluate(ARRANGE, {"api": api, "name": name, "layout": layout, "note": note, "groups": {}, "reroutes": []})
                if scene.runs:
                    print(name, page.evaluate(QUEUE))
                page.wait_for_timeout(3000)
                for node_id, (of_scene, shown) in wanted.items():
                    if of_scene != name:
                        continue
                    clip = page.evaluate(LOOK, {"ids": [numbers[one] for one in shown], "place": PLACE, "margin": MARGIN})
                    page.wait_for_timeout(1000)
                    save(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"), node_id)


if __name__ == "__main__":
    main()
