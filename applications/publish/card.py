"""A checkpoint's model card: what its file, the folder that it lies in and its evaluations say, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ...common.checkpoint import PROMPT_KEY, Checkpoint
from ...common.files import read_json
from ...evaluation.tables import evaluation_markdown, markdown_table, number

MARK = "<!-- written by diffharmony push -->"  # of a card that a later push may replace
WORKFLOW = "workflow.json"
WORDS = {
    "harmony_vae": "Harmony-VAE", "autoencoder": "plain VAE", "unet": "UNet", "classifier": "harmony classifier", "refinement": "refinement model",
}  # fmt: skip
NODES = {
    "harmony_vae": "Load Harmony-VAE", "classifier": "Load Harmony Classifier", "refinement": "Load Harmony Refinement",
    ("unet", "harmonize"): "Load Harmonization UNet", ("unet", "invert"): "Load Inverse UNet",
}  # fmt: skip
OPTIONS = {"harmony_vae": "vae", "unet": "unet", "classifier": "classifier", "refinement": "refinement"}  # of `diffharmony harmonize`


@dataclass(frozen=True)
class Published:
    """Where the files go. revision: the tag that names them for good."""

    repository: str
    revision: str
    license: str | None = None


def card_text(checkpoints: Sequence[Checkpoint], results: Sequence[Path], place: Published, *, workflow: bool) -> str:
    """README.md of a Hub repository.

    results: folders of `diffharmony evaluate --out`. workflow: whether one lies beside it.
    Raises: FileNotFoundError, ValueError for a report that is missing or damaged.
    """
    from huggingface_hub import ModelCardData

    direction = "inverse harmonization" if any(one.direction == "invert" for one in checkpoints) else "image harmonization"
    data = ModelCardData(
        license=place.license, library_name="diffharmony", pipeline_tag="image-to-image", tags=["image-harmonization", "comfyui", "diffharmony++"],
    )  # fmt: skip
    parts = [
        f"---\n{data.to_yaml()}\n---\n{MARK}",
        f"# {place.repository.rpartition('/')[2]}",
        f"Models of DiffHarmony++ ({direction}), for [diffharmony](https://github.com/diffharmony/diffharmony): ComfyUI nodes, commands, library.",
        markdown_table(["file", "what", "parameters", "precision", "working sizes", "steps"], [_row(one) for one in checkpoints]),
        "## Use",
        _use(checkpoints, place, workflow),
        "## Data and recipe",
        *(_recipe(one) for one in checkpoints),
        "## Measured",
        *([_measured(folder) for folder in results] or ["No evaluation came with these files (`diffharmony evaluate --out` makes one)."]),
        *filter(None, map(_validation, checkpoints)),
    ]
    return "\n\n".join(parts) + "\n"


def public(value: Any) -> Any:
    """A JSON value with only the last part of whatever names a place on a machine."""
    if isinstance(value, dict):
        return {name: public(one) for name, one in value.items()}
    if isinstance(value, list):
        return [public(one) for one in value]
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith("~")):
        return PureWindowsPath(value).name
    return value


def _row(checkpoint: Checkpoint) -> list[str]:
    weights = {name: tensor for name, tensor in checkpoint.tensors.items() if name != PROMPT_KEY}
    told = checkpoint.metadata
    return [
        f"`{checkpoint.path.name}`",
        " ".join(filter(None, [WORDS[checkpoint.kind], f"({checkpoint.direction})", checkpoint.prediction_type])),
        f"{sum(tensor.numel() for tensor in weights.values()):,}",
        ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()})),
        ", ".join(map(str, json.loads(told.get("diffharmony.sizes", "[]")))) or "-",
        told.get("diffharmony.steps", "-"),
    ]


def _use(checkpoints: Sequence[Checkpoint], place: Published, workflow: bool) -> str:
    ids = {one.path.name: f"{place.repository}@{place.revision}:{one.path.name}" for one in checkpoints}
    lines = [f"- In ComfyUI: open [{WORKFLOW}]({WORKFLOW}), which names these files; models of it that are not here are small ones of diffharmony's."] * workflow
    for one in checkpoints:
        node = NODES.get(one.kind) or NODES.get((one.kind, one.direction))
        if node:
            lines.append(f"- *{node}*: `{ids[one.path.name]}` as its hub_id (advanced inputs).")
    options = [f"--{OPTIONS[one.kind]} {ids[one.path.name]}" for one in checkpoints if one.kind in OPTIONS and one.direction != "invert"]
    if options:
        lines.append(f"- `diffharmony harmonize composite.png mask.png --out out.png {' '.join(options)}`")
    lines += [f"- To train from: `--init {ids[one.path.name]}`" for one in checkpoints if one.kind == "autoencoder"]
    return "\n".join(lines)


def _recipe(checkpoint: Checkpoint) -> str:
    training = checkpoint.training
    if not training:
        return f"`{checkpoint.path.name}` does not say how it was trained."
    training = public(training)
    roots = training.get("config", {}).get("data", {}).get("roots", []) if isinstance(training.get("config"), dict) else []
    data = f" Data: {', '.join(map(str, roots))}." if roots else ""
    text = json.dumps(training, indent=1, ensure_ascii=False)
    return f"`{checkpoint.path.name}`: `diffharmony {training.get('command', '?')}`.{data}\n\n<details><summary>All settings</summary>\n\n```json\n{text}\n```\n</details>"


def _measured(folder: Path) -> str:
    result = public(read_json(folder / "results.json"))
    try:
        text = evaluation_markdown(result)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'results.json'} must be of `diffharmony evaluate --out`, got one without {error}. Run it again.") from error
    return re.sub(r"^## ", "### ", text.partition("\n")[2].strip(), flags=re.MULTILINE)


def _validation(checkpoint: Checkpoint) -> str | None:
    """What a training run's own log, in the checkpoint's folder, says of held-out composites at the end."""
    log = checkpoint.path.parent / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    last = next((row for row in reversed(rows) if "validation_loss" in row), None)
    if last is None:
        return None
    psnr = f", PSNR {number(last['validation_psnr'])} dB" if last.get("validation_psnr") is not None else ""
    return f"While training, on its validation list at step {last['step']}: loss {last['validation_loss']:.5g}{psnr} (`{checkpoint.path.name}`)."
