"""The state a killed run goes on from: one file, whole or absent."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from ..common.checkpoint import written_whole

KEPT = 2
logger = logging.getLogger("diffharmony")


def write_state(out: Path, step: int, parameters, optimizer, schedule, ema) -> None:
    """Write `<out>/state/step-<n>.pt`; drop all but the newest KEPT, and what killed runs left half-written."""
    folder = out / "state"
    folder.mkdir(exist_ok=True)
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
    }
    with written_whole(folder / f"step-{step:08d}.pt") as temporary:
        torch.save(state, temporary)
    for old in [*_states(out)[:-KEPT], *_leftovers(folder)]:
        old.unlink(missing_ok=True)


def newest_state(out: Path) -> Path | None:
    """The newest state that can be read; one that cannot is passed over with a warning."""
    for path in reversed(_states(out)):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return path
        except Exception as error:  # any damage: torch raises many kinds
            logger.warning("state %s cannot be read (%s); trying the one before it", path, error)
    return None


def read_state(path: Path, parameters, optimizer, schedule, ema) -> int:
    """Load a state into the given objects and return its step. Raises: ValueError when it is another model's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    shapes = [list(tensor.shape) for tensor in state["parameters"]]
    if shapes != [list(parameter.shape) for parameter in parameters]:
        raise ValueError(f"{path} must hold a state of this model, got {len(shapes)} parameters that do not fit. Choose another run.out.")
    with torch.no_grad():
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    ema.load_state_dict(state["ema"])
    return state["step"]


def clear_log_after(path: Path, step: int) -> None:
    """Drop log lines of steps that will be run again."""
    if not path.is_file():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # a line cut off by the kill
    with written_whole(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _leftovers(folder: Path) -> list[Path]:
    """What a kill in the middle of writing a state left behind."""
    return list(folder.glob(".step-*.pt"))


def _states(out: Path) -> list[Path]:
    return sorted((out / "state").glob("step-*.pt"))
