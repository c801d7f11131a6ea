"""Measuring: figures by convention, baselines, the tiny family's report (heavy imports on first use only)."""

from __future__ import annotations

import importlib
from typing import Any

# No module here may bear the name of a function below: importing the module would put it in the function's place.
_NAMES = {
    "evaluate": "evaluator",
    "CONVENTIONS": "metrics",
    "Measurement": "metrics",
    "measure": "metrics",
    "measure_arrays": "metrics",
    "summarize": "metrics",
    "BASELINES": "baselines",
    "colour_transfer": "baselines",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value
