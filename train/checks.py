"""What a trainer's settings must hold, and which of them a person gave beside what a preset says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from ..common.files import check_folder
from .config import DataConfig, TrainingConfig, field_of
from .run.accelerator import check_accelerate
from .run.state import states_of

NOT_GIVEN = (None, False, ())


def given_fields(arguments: list[str]) -> set[str]:
    """The dotted fields that command-line arguments name: `--optim.batch-size 4`, `--run.no-resume` -> optim.batch_size, run.resume."""
    names = {argument.partition("=")[0][2:].replace("-", "_") for argument in arguments if argument.startswith("--")}
    return names | {".".join([*name.split(".")[:-1], name.split(".")[-1].removeprefix("no_")]) for name in names}


def resolve_overrides(config: TrainingConfig, arguments: list[str]) -> TrainingConfig:
    """The config with what was given in the place of what the preset says instead of it.

    Raises: ValueError where two options that were given exclude each other, or one does nothing without, or beside, another.
    """
    given = given_fields(arguments)
    if {"optim.steps", "optim.epochs"} <= given:
        raise ValueError("optim.steps and optim.epochs must not both be given, since each says how long to train. Leave out one.")
    if "optim.epochs" in given:
        config = replace(config, optim=replace(config.optim, steps=None))
    for name, needed in config.ignored_without.items():
        if _names(given, name) and field_of(config, needed) in NOT_GIVEN:
            raise ValueError(f"{name} must go with {needed}, which is {field_of(config, needed)}: alone it does nothing. Set that, or leave it out.")
    for name, other in config.ignored_with.items():
        if _names(given, name) and field_of(config, other) not in NOT_GIVEN:
            raise ValueError(f"{name} must not go with {other}, beside which it does nothing, got both. Leave out one.")
    return config


def _names(given: set[str], name: str) -> bool:
    """Whether a field, or one of a group of fields, was given."""
    return any(field == name or field.startswith(f"{name}.") for field in given)


def check(config: TrainingConfig) -> None:
    """Check the fields that all trainers share, and that each lies in the interval that its type names.

    Raises: ValueError for the first field that cannot work, with what must hold; PermissionError for a run.out that cannot be
    written to.
    """
    if not config.data.roots:
        raise ValueError("data.roots must name at least one folder, got none. Pass --data.roots FOLDER.")
    for name, interval, field_value in _intervals(config):
        for value in field_value if isinstance(field_value, tuple) else (field_value,):
            if value is not None and not _inside(value, interval):
                raise ValueError(f"{name} must lie in {interval}, got {value!r}. Choose a value from there.")
    for name, sizes in (("data.size", (config.data.size,)), ("data.sizes", config.data.sizes)):
        for size in sizes:
            if size % 8:
                raise ValueError(f"{name} must be a multiple of 8, got {size}. Choose 256, say.")
    _check_distinct(config)
    if config.optim.batch_size % config.optim.accumulation:
        raise ValueError(
            f"optim.accumulation must divide the batch size {config.optim.batch_size}, got {config.optim.accumulation}. Choose a divisor."
        )
    shares = config.optim.accumulation * int(os.environ.get("WORLD_SIZE", 1))
    if config.optim.batch_size % shares:
        raise ValueError(
            f"optim.batch_size must be a multiple of accumulation x processes = {shares}, got {config.optim.batch_size}. Change one of them."
        )
    if config.run.tracker != "none" and find_spec(config.run.tracker) is None:
        raise ValueError(
            f"run.tracker must be one that is installed, or none, got {config.run.tracker!r}. Install it: pip install {config.run.tracker}"
        )
    if os.environ.get("RANK", "0") == "0":  # the process that writes
        check_folder(config.run.out, "run.out")
    if not config.dry_run:
        check_accelerate(config.run)


def _check_distinct(config: TrainingConfig) -> None:
    if states_of(config.run.out):  # a run that was begun before this was refused goes on
        return
    data = config.data
    seen: set[Path] = set()
    for root, list_file in zip(data.roots, data.list_files or (data.list_file,) * len(data.roots)):
        place = Path(root, list_file).resolve()
        if place in seen:
            raise ValueError(
                f"data.roots must not name one folder twice with one list, got {root} again, {list_file}. Leave it out, and say with "
                "data.weights how often each is drawn from."
            )
        seen.add(place)


def check_one_size(data: DataConfig, where: str) -> None:
    """Refuse data.sizes where what is made of the images is computed once and kept, at one size. Raises: ValueError."""
    if data.sizes:
        raise ValueError(f"data.sizes must be left out where {where}, got {data.sizes}. Give data.size alone.")


def _intervals(config: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted name, interval and value of each field that names one in its type."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if is_dataclass(value):
            yield from _intervals(value, f"{prefix}{name}.")
        elif get_origin(hint) is Annotated:
            yield f"{prefix}{name}", hint.__metadata__[0], value


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)
