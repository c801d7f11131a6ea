"""Measuring: figures by convention, baselines, comparisons, reports (heavy imports on first use only)."""

from __future__ import annotations

from ..common.lazy import lazy_names

_NAMES = {
    "evaluate": "evaluator",
    "CONVENTIONS": "conventions",
    "Measurement": "metrics",
    "measure": "metrics",
    "measure_arrays": "metrics",
    "summarize": "metrics",
    "BASELINES": "baselines",
    "colour_transfer": "baselines",
}
__all__ = sorted(_NAMES)
__getattr__ = lazy_names(__name__, _NAMES, globals())
