"""A training goes on in its folder where it was left, with the settings that it was begun with; its states are read in state.py."""

from __future__ import annotations

import json
from typing import Any

from ...common.files import read_json, written_whole
from ...common.processes import on_main
from ...common.run_folder import check_same, clear_unfinished, hold, let_go
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
        now = _flat(as_dict(config))
        # the class's own values are those of fields that were not there when it was saved
        before = {**_flat(as_dict(type(config)())), **_flat(read_json(out / CONFIG))}
        check_same(before, now, out, "run.out", FREE | ({"data.list_file"} if config.data.list_files else set()))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
