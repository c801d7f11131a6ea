"""The harmony classifier: model, checkpoints, the unharmonious probability, measures (SPEC §5; heavy imports on first use only)."""

from __future__ import annotations

from ..common.lazy import lazy_names

_NAMES = {
    "HarmonyClassifier": "model",
    "load_harmony_classifier": "checkpoint",
    "save_harmony_classifier": "checkpoint",
    "unharmonious_probability": "inference",
}
__all__ = sorted(_NAMES)
__getattr__ = lazy_names(__name__, _NAMES, globals())
