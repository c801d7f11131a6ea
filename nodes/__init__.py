"""The ComfyUI side. Only this folder imports the host's modules; a node converts, calls the library, converts."""

from comfy_api.latest import ComfyExtension, io

from .candidates import InverseCandidates
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
