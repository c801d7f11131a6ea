"""The ComfyUI side. Only this folder imports the host's modules; a node converts, calls the library, converts."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OLDEST_HOST = "0.18.2"  # requires-comfyui of pyproject.toml
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def check_host() -> None:
    """Raises: RuntimeError for a ComfyUI that is older than what these nodes are written for."""
    from packaging.version import Version

    try:
        from comfyui_version import __version__ as found
    except ImportError:
        found = "an older one"
    if found == "an older one" or Version(found) < Version(OLDEST_HOST):
        raise RuntimeError(f"ComfyUI must be {OLDEST_HOST} or later for DiffHarmony, got {found}. Update ComfyUI.")


def check_packages() -> None:
    """Raises: RuntimeError for a package of requirements.txt that is not installed, or too old."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    for wanted in map(Requirement, filter(None, lines)):
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not wanted.specifier.contains(found, prereleases=True):
            command = f"{sys.executable} -m pip install -r {REQUIREMENTS}"
            raise RuntimeError(f"{wanted} must be installed for DiffHarmony, got {found}. Run: {command}")


# before the imports that would fail in words of their own
check_host()
check_packages()

from comfy_api.latest import ComfyExtension, io

from .candidates import InverseCandidates
from .compositing.compare import DifferenceView, HarmonizationMetrics
from .compositing.compose import ComposeForeground
from .compositing.crop import CropForeground, StitchForeground
from .conditioning import HarmonyConditioning
from .decode import HarmonyVAEDecode, HarmonyVAEDecodeTiled
from .harmonize_image import HarmonizeImage
from .loaders import LoadHarmonizationUNet, LoadHarmonyClassifier, LoadHarmonyRefinement, LoadHarmonyVAE, LoadInverseUNet
from .refine import HarmonyRefine
from .save_pair import SaveHarmonizationPair
from .score import HarmonyScore
from .select import SelectMostUnharmonious
from .transfer import HarmonyWorkingSize, TransferHarmony


class DiffHarmonyExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            HarmonizeImage,
            ComposeForeground,
            CropForeground,
            StitchForeground,
            HarmonizationMetrics,
            DifferenceView,
            LoadHarmonyVAE,
            LoadHarmonizationUNet,
            LoadInverseUNet,
            LoadHarmonyClassifier,
            LoadHarmonyRefinement,
            HarmonyConditioning,
            HarmonyVAEDecode,
            HarmonyVAEDecodeTiled,
            HarmonyRefine,
            HarmonyWorkingSize,
            TransferHarmony,
            InverseCandidates,
            HarmonyScore,
            SelectMostUnharmonious,
            SaveHarmonizationPair,
        ]
