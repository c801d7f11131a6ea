"""Inverse harmonization: composites made of real photographs, and which of them to train on (SPEC §4-6)."""

from __future__ import annotations

from ..common.lazy import lazy_names

_NAMES = {
    "candidate_seed": "candidates",
    "generate_candidates": "candidates",
    "HarmonyClassifier": ".classifier.model",
    "load_harmony_classifier": ".classifier.checkpoint",
    "save_harmony_classifier": ".classifier.checkpoint",
    "unharmonious_probability": ".classifier.inference",
    "choose_candidates": "selection",
    "save_pair": "pairs",
    "build_data_set": "human_harmony.build",
    "split_photographs": "human_harmony.split",
}
__all__ = sorted(_NAMES)
__getattr__ = lazy_names(__name__, _NAMES, globals())
