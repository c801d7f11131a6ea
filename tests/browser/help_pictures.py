"""Make the pictures of web/docs/ that show a node at work in ComfyUI's own frontend, by running the example workflows on the demo's photographs.

    .venv/bin/python -m diffharmony.tests.browser.help_pictures [DiffHarmonyTransfer …]

Needs Chromium. The pictures of Composite Foreground, Crop Foreground and Difference View show photographs alone, and are none of these.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from diffharmony.refinement import save_refinement
from diffharmony.tests.browser.author_workflow import ARRANGE, numbered
from diffharmony.tests.browser.examples import EXAMPLES
from diffharmony.tests.browser.frontend import QUEUE, open_frontend
from diffharmony.tests.host.comfy_server import REPOSITORY, ComfyServer
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
    return Scene(EXAMPLES[name].prompt(), EXAMPLES[name].layout)


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
        "composite": ((0, 0), (300, 330), None), "mask": ((0, 400), (300, 330), None), "vae": ((0, 800), (300, 60), None),
        "unet": ((0, 930), (300, 80), None), "conditioning": ((340, 800), (280, 110), None), "sampler": ((340, 470), (280, 270), None),
        "decode": ((660, 470), (280, 150), None), "refinement": ((340, 60), (300, 60), None), "refine": ((1000, 60), (280, 130), None),
        "conditional": ((1320, 60), (300, 330), None),
    }  # fmt: skip
    return Scene(prompt, layout, runs=False)


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


def save(picture: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    for quality in range(90, 30, -5):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LARGEST_BYTES:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", default=list(SHOWN), metavar="id", help="of which nodes; all of them by default")
    wanted = {node_id: SHOWN[node_id] for node_id in parser.parse_args().ids}
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
                page.evaluate(ARRANGE, {"api": api, "name": name, "layout": layout, "note": note, "groups": {}})
                if scene.runs:
                    print(name, page.evaluate(QUEUE))
                page.wait_for_timeout(3000)
                for node_id, (of_scene, shown) in wanted.items():
                    if of_scene != name:
                        continue
                    clip = page.evaluate(LOOK, {"ids": [numbers[one] for one in shown], "place": PLACE, "margin": MARGIN})
                    page.wait_for_timeout(1000)
                    path = REPOSITORY / "web" / "docs" / f"{node_id}.jpg"
                    save(page.screenshot(clip=clip), path)
                    print(path.relative_to(REPOSITORY), path.stat().st_size)


if __name__ == "__main__":
    main()
