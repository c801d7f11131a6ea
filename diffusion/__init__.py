"""The 9-channel UNet of both directions, sampling, harmonize(), Transfer Harmony, convert: without a host (imports torch and diffusers on first use only)."""

from __future__ import annotations

from ..common.lazy import lazy_names

_NAMES = {
    "load_unet": "unet",
    "save_unet": "unet",
    "build_scheduler": "sampler",
    "sample_generators": "sampler",
    "sample_latents": "sampler",
    "DiffHarmonyPipeline": "pipeline",
    "harmonize": "inference",
}
__all__ = sorted(_NAMES)
__getattr__ = lazy_names(__name__, _NAMES, globals())
