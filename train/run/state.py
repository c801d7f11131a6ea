"""The state a killed run goes on from: one file, whole or absent."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...common.files import not_written, parse_json, written_whole
from .ema import Weights
from .sharding import load_optimizer, optimizer_state, part, whole

logger = logging.getLogger("diffharmony")


def collect(step: int, weights: Weights, schedule, scaler=None, *, keep: bool = True) -> dict[str, Any]:
    """Everything that the next steps depend on, besides the config, with whole tensors on the CPU, however they are spread. Every
    process must call this; those that write nothing need not `keep` the tensors."""

    def kept(tensor: torch.Tensor) -> torch.Tensor | None:
        return tensor.cpu() if keep else None

    def gathered(tensors: list[torch.Tensor]) -> list[torch.Tensor | None]:
        return [kept(whole(tensor)) for tensor in tensors]

    return {
        "step": step,
        "parameters": gathered(weights.parameters),
        "optimizer": optimizer_state(weights.optimizer, kept),
        "schedule": schedule.state_dict(),
        "ema": {**weights.ema.state_dict(), "shadow_params": gathered(weights.ema.shadow_params)},
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def write_state(out: Path, state: dict[str, Any], keep: int) -> None:
    """Write `<out>/state/step-<n>.pt`, and drop all but the newest `keep` up to it."""
    folder = out / "state"
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{state['step']:08d}.pt"
    with written_whole(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            raise not_written(path, "no room to its end") from error  # torch's own tells of positions
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # the one before it is dropped now: a power cut must not take both
    # later ones could not be read when this run began: they go once their step is reached again, and stand in for none
    for old in [path for path in states_of(out) if step_of(path) <= state["step"]][:-keep]:
        old.unlink(missing_ok=True)


def check_steps(step: int, steps: int, out: Path) -> None:
    """Raises: ValueError when fewer steps are asked for than the run in `out` has taken."""
    if step > steps:
        raise ValueError(
            f"optim.steps must be at least the {step} that the run in {out} has taken, got {steps}. Ask for more, or choose another run.out."
        )


def newest_state(out: Path) -> Path | None:
    """The newest state that is whole, None where there is none; one that is not is passed over with a warning.

    Raises: ValueError when none of several is whole: to begin anew would write over the run's checkpoints.
    """
    states = states_of(out)
    for path in reversed(states):
        try:
            check_whole(path)
            return path
        except Exception as error:  # any damage: zipfile and torch raise many kinds
            logger.warning("state %s cannot be read (%s)%s", path, error, "; trying the one before it" if path != states[0] else "")
    if states:
        raise ValueError(
            f"{out / 'state'} must hold a state that can be read, got {len(states)} damaged. Remove the folder to begin anew, which writes "
            "over the checkpoints, or choose another run.out."
        )
    return None


def check_whole(path: Path) -> None:
    """Read all of a state and compare its checksums: a lazy load would not miss its tail, or see a flipped bit.

    Raises: ValueError for a wrong checksum; what zipfile or torch raise for other damage.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        # a file that is marked as a folder passes that, and torch reads nothing of it
        damaged = damaged or next((item.filename for item in archive.infolist() if item.external_attr), None)
    if damaged is not None:
        raise ValueError(f"{damaged} in it must be as it was written, by its checksum and attributes, got another")
    torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_state(path: Path, weights: Weights, schedule, scaler=None) -> dict[str, Any]:
    """Load a state into the given objects, spread as they are, and return what is left of it. Raises: ValueError when it is another
    model's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    shapes = [list(tensor.shape) for tensor in state["parameters"]]
    parameters = weights.parameters
    if shapes != [list(parameter.shape) for parameter in parameters]:
        raise ValueError(f"{path} must hold a state of this model, got {len(shapes)} parameters that do not fit. Choose another run.out.")
    with torch.no_grad():
        for parameter, tensor in zip(parameters, state["parameters"]):
            parameter.copy_(part(tensor, parameter))
    load_optimizer(weights.optimizer, parameters, state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    averages = [part(tensor, parameter) for tensor, parameter in zip(state["ema"].pop("shadow_params"), parameters)]
    weights.ema.load_state_dict(state["ema"])
    weights.ema.shadow_params = averages
    if scaler is not None and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    return {name: value for name, value in state.items() if name in ("step", "images")}


def clear_log_after(path: Path, step: int) -> None:
    """Drop log lines of steps that will be run again."""
    if not path.is_file():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if parse_json(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off by the kill, or damaged otherwise
    with written_whole(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def states_of(out: Path) -> list[Path]:
    """The states in a run's folder, whole or damaged, the newest last."""
    # other files, such as a copy that somebody made, are left alone
    return sorted((path for path in (out / "state").glob("step-*.pt") if step_of(path) is not None), key=step_of)


def step_of(path: Path) -> int | None:
    """The steps that a state's run had taken, by its name; None for another file."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdecimal() else None
