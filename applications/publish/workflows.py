"""The models that a workflow's loaders name: links for ComfyUI's panel of missing models, and workflows that take them from the Hub."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ...common.assets import BUNDLED_MARK, ROOT
from ...common.weights.layout import MODEL_FOLDERS

BUNDLED_URL = "https://github.com/diffharmony/diffharmony/raw/main/assets/tiny"
# Node ids of the loaders, and the kind and direction of what they load: None takes both.
LOADERS = {
    "DiffHarmonyLoadHarmonyVAE": ("harmony_vae", None),
    "DiffHarmonyLoadHarmonizationUNet": ("unet", "harmonize"),
    "DiffHarmonyLoadInverseUNet": ("unet", "invert"),
    "DiffHarmonyLoadHarmonyClassifier": ("classifier", None),
    "DiffHarmonyLoadRefinement": ("refinement", None),
}
HARMONIZE, INVERSE, BUILD = (ROOT / "workflows" / f"{name}.json" for name in ("harmonize_advanced", "inverse", "build_dataset"))
REFINE = Path(__file__).with_name("refine.json")  # no template, for want of a bundled refinement model
# The workflows that a kind and direction is shown in; of a pushed set's the one that shows most of it, before others of as many the first.
EXAMPLES = {
    ("unet", "harmonize"): (HARMONIZE, REFINE), ("harmony_vae", "harmonize"): (HARMONIZE, REFINE), ("refinement", "harmonize"): (REFINE,),
    ("unet", "invert"): (INVERSE,), ("harmony_vae", "invert"): (INVERSE,), ("classifier", "harmonize"): (BUILD,),
}  # fmt: skip


def with_bundled_models(workflow: dict[str, Any]) -> dict[str, Any]:
    """A copy whose loaders of bundled files say in `properties.models` what these are, where they belong, and a link.

    The name is the file's own, without the mark: whoever fetches it by the link gets a file that the node lists.
    """
    workflow = copy.deepcopy(workflow)
    for node in _loaders(workflow):
        name = node["widgets_values"][0]
        if name.endswith(BUNDLED_MARK):
            name = name.removesuffix(BUNDLED_MARK)
            node["properties"]["models"] = [_entry(node["type"], name, f"{BUNDLED_URL}/{name}")]
    return workflow


def workflow_of(files: dict[tuple[str, str], str], repository: str, revision: str, url: str, steps: int | None) -> dict[str, Any] | None:
    """The example that shows most of these models, its loaders naming them on the Hub; None where no example has such a model.

    files: (kind, direction) -> file in the repository. url: of a file in it, with {} for its name. steps: the UNet's own for transfer.
    """
    shown = [example for told in files for example in EXAMPLES.get(told, ())]
    if not shown:
        return None
    example = max(shown, key=shown.count)
    workflow = with_bundled_models(json.loads(example.read_text(encoding="utf-8")))
    for node in _loaders(workflow):
        kind, direction = LOADERS[node["type"]]
        direction = direction or ("invert" if example in (INVERSE, BUILD) and kind == "harmony_vae" else "harmonize")
        file = files.get((kind, direction))
        if file is not None:
            node["widgets_values"] = [node["widgets_values"][0], f"{repository}@{revision}:{file}"]
            node["properties"]["models"] = [_entry(node["type"], file, url.format(file))]
    for node in workflow["nodes"]:
        if node["type"] == "KSampler" and ("unet", "harmonize") in files:
            node["widgets_values"][2] = steps or 5
    return workflow


def _loaders(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in workflow["nodes"] if node["type"] in LOADERS]


def _entry(node_type: str, name: str, url: str) -> dict[str, str]:
    return {"name": name, "url": url, "directory": MODEL_FOLDERS[LOADERS[node_type][0]]}
