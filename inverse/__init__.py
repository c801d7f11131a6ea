"""Inverse harmonization: composites made of real photographs, and which of them to train on (SPEC §4-6)."""

from __future__ import annotations

from ..common.lazy import lazy_names

# No module here may bear the name of a function below: importing the module would put it in the function's place.
_NAMES = {
    "candidate_seed": "candidates",
    "generate_candidates": "candidates",
    "HarmonyClassifier": "classifier",
    "load_harmony_classifier": "classifier",
    "save_harmony_classifier": "classifier",
    "unharmonious_probability": "classifier",
    "choose_candidates": "selection",
    "save_pair": "pairs",
    "build_data_set": "human_harmony.build",
    "split_photographs": "human_harmony.split",
}
__all__ = sorted(_NAMES)
__getattr__ = lazy_names(__name__, _NAMES, globals())
