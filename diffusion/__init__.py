"""The harmonization UNet and its use without a host (imports torch and diffusers on first use only)."""

from __future__ import annotations

import importlib
from typing import Any

# No module here may bear the name of a function below: importing the module would put it in the function's place.
_NAMES = {
    "load_unet": "unet",
    "save_unet": "unet",
    "build_scheduler": "sampler",
    "sample_generators": "sampler",
    "sample_latents": "sampler",
    "DiffHarmonyPipeline": "pipeline",
    "harmonize": "harmonization",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value
