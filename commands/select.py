"""The command `select`: options, and what it prints. Heavy imports wait until it runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.assets import TINY

NAMES_SHOWN = 10


@dataclass(frozen=True)
class SelectConfig:
    """Choose the most unharmonious candidates that `diffharmony generate` made, ready to train on.

    Scores every candidate once (a killed run goes on, other limits later need no other scores), places the chosen ones with their masks and
    real images in a folder of their own, and writes their list, scores.jsonl, selection.json (what was rejected and why) and
    selection.png. Runs in several processes by `accelerate launch -m diffharmony select …`.

    Examples:
      diffharmony select --data out/candidates --classifier models/model_state_dict.pth
      diffharmony select --data out/candidates --out out/selected --count 3 --min-distance 30 --max-distance 8000 --json
    """

    data: Path
    """Folder that `diffharmony generate` wrote to (its --out). Nothing is written to it."""
    out: Path | None = None
    """Folder to write to, made where missing; by default beside --data, <data>-selected."""
    classifier: Path = TINY / "harmony_classifier.safetensors"
    """Harmony classifier: our file, the authors' model_state_dict.pth, or on the Hub owner/name@revision:file. The default is a tiny
    model for trying out."""
    list: str = "IHD_train.txt"
    """List file to write in --out. One that is there and not from an earlier selection, or has lines of others, is refused."""
    count: int = 1
    """Candidates to keep of each pair, at most."""
    min_distance: float = 0.0
    """Reject candidates that changed less: mean squared difference from the real image inside the mask, of 0..255."""
    max_distance: float | None = None
    """Reject candidates that changed more, as broken."""
    max_score: float | None = None
    """Reject candidates of a higher unharmonious probability, as broken."""
    pictures: int = 8
    """Pairs that selection.png shows; 0: no picture."""
    batch_size: int = 32
    """Images that the classifier sees at once."""
    workers: int = 2
    """Threads that read images."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps. With accelerate each process has its own."""
    json: bool = False
    """Print one JSON object as the last line."""


def run_select(config: SelectConfig) -> dict[str, Any]:
    """Run `diffharmony select`. Returns: what --json prints. Raises: as select_candidates(); ValueError for an --out that is --data."""
    from ..common.devices import find_device
    from ..common.processes import processes
    from ..inverse.select_folder import RESULT, SHEET, Limits, select_candidates

    for name, least in (("pictures", 0), ("batch_size", 1), ("workers", 1)):
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}. Raise it.")
    data = Path(os.path.abspath(config.data))  # "." has no name
    out = config.out or data.with_name(f"{data.name}-selected")
    if out.exists() and data.exists() and out.samefile(data):
        raise ValueError(f"--out must be another folder than --data, got {out}. Leave it out for {data.name}-selected.")
    result = select_candidates(
        config.data, out, config.classifier, Limits(config.count, config.min_distance, config.max_distance, config.max_score),
        list_file=config.list, pictures=config.pictures, device=find_device(config.device, processes().device),
        batch_size=config.batch_size, workers=config.workers,
    )  # fmt: skip
    if processes().is_main_process:
        stream = sys.stderr if config.json else sys.stdout
        print(selection_text(result), file=stream, flush=True)
        written = [config.list, RESULT] + ([SHEET] if config.pictures else [])
        print(f"Wrote {out}: {', '.join(written)}", file=stream, flush=True)
    return {**result, "out": str(out)}


def selection_text(result: dict[str, Any]) -> str:
    """Lines for people."""
    without = result["without_choice"]
    lines = [
        f"{result['chosen']} chosen of {result['candidates']} candidates of {result['pairs']} pairs ({result['scored']} scored now)",
        *(f"  rejected: {count} ({reason})" for reason, count in result["rejected"].items() if count),
        f"  within the limits, not chosen: {result['within_limits'] - result['chosen']}",
    ]
    if without:
        more = f", and {len(without) - NAMES_SHOWN} more in selection.json" if len(without) > NAMES_SHOWN else ""
        lines.append(f"  pairs without any choice: {len(without)} ({', '.join(without[:NAMES_SHOWN])}{more})")
    return "\n".join(lines)
