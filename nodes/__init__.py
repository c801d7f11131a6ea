"""The ComfyUI side. Only this folder imports the host's modules; a node converts, calls the library, converts."""

from comfy_api.latest import ComfyExtension, io

from .classifier import HarmonyScore, LoadHarmonyClassifier
from .conditioning import HarmonyConditioning
from .decode import HarmonyVAEDecode, HarmonyVAEDecodeTiled
from .inverse_candidates import InverseCandidates
from .loaders import LoadHarmonizationUNet, LoadHarmonyVAE, LoadInverseUNet
from .refinement import HarmonyRefine, LoadHarmonyRefinement
from .save_pair import SaveHarmonizationPair
from .selection import SelectMostUnharmonious


class DiffHarmonyExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadHarmonyVAE,
            LoadHarmonizationUNet,
            LoadInverseUNet,
            LoadHarmonyClassifier,
            LoadHarmonyRefinement,
            HarmonyConditioning,
            HarmonyVAEDecode,
            HarmonyVAEDecodeTiled,
            HarmonyRefine,
            InverseCandidates,
            HarmonyScore,
            SelectMostUnharmonious,
            SaveHarmonizationPair,
        ]
