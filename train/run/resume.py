"""A training goes on in its folder where it was left, with the settings that it was begun with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ...common.files import read_json, written_whole
from ...common.processes import on_main
from ...common.run_folder import clear_unfinished, hold, let_go
from ..config import TrainingConfig, as_dict
from .state import states_of

# What may differ when a run is gone on with.
FREE = {
    "json", "dry_run", "data.workers", "data.on_bad_image", "optim.steps", "optim.epochs", "run.out", "run.save_every", "run.keep_last",
    "run.sample_every", "run.samples", "run.resume", "run.validation_list", "run.validate_every", "run.validation_images", "run.tracker",
    "run.log_every",
}  # fmt: skip
CONFIG = "config.json"


def take(config: TrainingConfig) -> None:
    """Hold the folder `run.out` until `let_go` or this process's end, make it, and save the config in it. In several processes the
    first does so.

    Raises: FileExistsError when the folder holds a state and `run.resume` is off; ValueError when it holds one of a run that
    was configured otherwise; RuntimeError when another run is under way in it.
    """
    on_main(lambda: _take(config))


def _take(config: TrainingConfig) -> None:
    out = config.run.out
    out.mkdir(parents=True, exist_ok=True)
    hold(out)
    try:
        check_goes_on(config)
        clear_unfinished(out)
        with written_whole(out / CONFIG) as temporary:
            temporary.write_text(json.dumps(as_dict(config), indent=2) + "\n", encoding="utf-8")
    except BaseException:
        let_go(out)
        raise


def check_goes_on(config: TrainingConfig) -> None:
    """Refuse a folder that holds a run which is not to be gone on with, or cannot be as configured; nothing is written.

    Raises: FileExistsError, ValueError as `take`.
    """
    out, states = config.run.out, states_of(config.run.out)
    if not states:
        return
    if not config.run.resume:
        raise FileExistsError(f"run.out must hold no state when run.resume is off, got {states[-1]}. Choose another folder, or resume.")
    if (out / CONFIG).is_file():
        before, now = _with_new_fields(read_json(out / CONFIG), config), as_dict(config)
        if now["data"]["list_files"]:  # beside which list_file does nothing
            before["data"]["list_file"] = now["data"]["list_file"]
        _check_same(before, now, out)


def _with_new_fields(before: dict[str, Any], config: Any) -> dict[str, Any]:
    """A saved config with the defaults of the fields that were not there when it was saved."""
    filled = dict(before)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            filled[field.name] = _with_new_fields(before.get(field.name, {}), value)
        elif field.name not in before:
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            filled[field.name] = json.loads(json.dumps(default, default=str))
    return filled


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path, prefix: str = "") -> None:
    for name in sorted(before.keys() | now.keys()):
        old, new, dotted = before.get(name), now.get(name), prefix + name
        if isinstance(old, dict) and isinstance(new, dict):
            _check_same(old, new, out, f"{dotted}.")
        elif dotted not in FREE and not _same(old, new):
            raise ValueError(
                f"{dotted} must be {old!r} to go on with the run in {out}, got {new!r}. Choose another run.out, or go on with the same settings."
            )


def _same(old: Any, new: Any) -> bool:
    """Whether two values of a saved config say the same. One place has several spellings: relative, absolute, through a link."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, str) and isinstance(new, str):
        return old == new or Path(old).resolve() == Path(new).resolve()
    return old == new
