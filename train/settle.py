"""Options that a person gave on the command line, beside what a preset says."""

from __future__ import annotations

from dataclasses import replace

from .config import TrainingConfig, field_of

NOT_GIVEN = (None, False, ())


def given_fields(arguments: list[str]) -> set[str]:
    """The dotted fields that command-line arguments name: `--optim.batch-size 4`, `--run.no-resume` -> optim.batch_size, run.resume."""
    names = {argument.partition("=")[0][2:].replace("-", "_") for argument in arguments if argument.startswith("--")}
    return names | {".".join([*name.split(".")[:-1], name.split(".")[-1].removeprefix("no_")]) for name in names}


def settle(config: TrainingConfig, arguments: list[str]) -> TrainingConfig:
    """The config with what was given in the place of what the preset says instead of it.

    Raises: ValueError where two options that were given exclude each other, or one does nothing without, or beside, another.
    """
    given = given_fields(arguments)
    if {"optim.steps", "optim.epochs"} <= given:
        raise ValueError("optim.steps and optim.epochs must not both be given, since each says how long to train. Leave out one.")
    if "optim.epochs" in given:
        config = replace(config, optim=replace(config.optim, steps=None))
    for name, needed in config.idle_without.items():
        if _names(given, name) and field_of(config, needed) in NOT_GIVEN:
            raise ValueError(f"{name} must go with {needed}, which is {field_of(config, needed)}: alone it does nothing. Set that, or leave it out.")
    for name, other in config.idle_with.items():
        if _names(given, name) and field_of(config, other) not in NOT_GIVEN:
            raise ValueError(f"{name} must not go with {other}, beside which it does nothing, got both. Leave out one.")
    return config


def _names(given: set[str], name: str) -> bool:
    """Whether a field, or one of a group of fields, was given."""
    return any(field == name or field.startswith(f"{name}.") for field in given)
