"""The refinement stage: a UNet without time that mends a harmonized image at 256 px (SPEC §9, §10)."""

from .checkpoint import load_refinement, save_refinement
from .model import HarmonyRefinement
from .stage import refine

__all__ = ["HarmonyRefinement", "load_refinement", "refine", "save_refinement"]
