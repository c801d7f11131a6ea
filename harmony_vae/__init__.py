"""The Harmony-VAE: model, blocks, tiles, checkpoints (SPEC §3)."""

from .blocks import HarmonyCondition
from .checkpoint import load_harmony_vae, load_vae, save_harmony_vae
from .model import HarmonyVAE

__all__ = ["HarmonyCondition", "HarmonyVAE", "load_harmony_vae", "load_vae", "save_harmony_vae"]
