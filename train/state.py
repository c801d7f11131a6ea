"""The state a killed run goes on from: one file, whole or absent."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from ..common.checkpoint import written_whole

logger = logging.getLogger("diffharmony")


def collect(step: int, parameters, optimizer, schedule, ema, scaler=None) -> dict[str, Any]:
    """Everything that the next steps depend on, besides the config. Where weights are sharded, every process must call this, and
    gets whole tensors."""
    state = {
        "step": step,
        "parameters": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    return _mapped(state, lambda tensor: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)


def write_state(out: Path, state: dict[str, Any], keep: int) -> None:
    """Write `<out>/state/step-<n>.pt`, and drop all but the newest `keep` up to it."""
    folder = out / "state"
    folder.mkdir(exist_ok=True)
    with written_whole(folder / f"step-{state['step']:08d}.pt") as temporary:
        torch.save(state, temporary)
    # later ones could not be read when this run began: they go once their step is reached again, and stand in for none
    for old in [path for path in _states(out) if _step(path) <= state["step"]][:-keep]:
        old.unlink(missing_ok=True)


def newest_state(out: Path) -> Path | None:
    """The newest state that is whole; one that is not is passed over with a warning."""
    for path in reversed(_states(out)):
        try:
            check_whole(path)
            return path
        except Exception as error:  # any damage: zipfile and torch raise many kinds
            logger.warning("state %s cannot be read (%s); trying the one before it", path, error)
    return None


def check_whole(path: Path) -> None:
    """Read all of a state and compare its checksums: a lazy load would not miss its tail, or see a flipped bit.

    Raises: ValueError for a wrong checksum; what zipfile or torch raise for other damage.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it must have the checksum that was written, got another")
    torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_state(path: Path, parameters, optimizer, schedule, ema, scaler=None) -> int:
    """Load a state into the given objects, sharded as they are, and return its step. Raises: ValueError when it is another
    model's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    shapes = [list(tensor.shape) for tensor in state["parameters"]]
    if shapes != [list(parameter.shape) for parameter in parameters]:
        raise ValueError(f"{path} must hold a state of this model, got {len(shapes)} parameters that do not fit. Choose another run.out.")
    with torch.no_grad():
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(_like(value, parameter))
    for index, values in state["optimizer"]["state"].items():
        state["optimizer"]["state"][index] = {
            name: _like(value, parameters[index]) if torch.is_tensor(value) and value.ndim else value for name, value in values.items()
        }
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    averages = [_like(value, parameter) for value, parameter in zip(state["ema"].pop("shadow_params"), parameters, strict=True)]
    ema.load_state_dict(state["ema"])
    ema.shadow_params = averages
    if scaler is not None and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    return state["step"]


def _like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the parameter's device, sharded as the parameter is."""
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else value


def _mapped(value: Any, change) -> Any:
    """The same structure with `change` applied to its tensors."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value


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


def _states(out: Path) -> list[Path]:
    return sorted((out / "state").glob("step-*.pt"), key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
