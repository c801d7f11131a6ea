"""Measuring: figures by convention, baselines, the tiny family's report (heavy imports on first use only)."""

from __future__ import annotations

from ..common.lazy import lazy_names

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
__getattr__ = lazy_names(__name__, _NAMES, globals())
