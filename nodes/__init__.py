"""The ComfyUI side. Only this folder imports the host's modules; a node converts, calls the library, converts."""

from comfy_api.latest import ComfyExtension, io

from .conditioning import HarmonyConditioning
from .decode import HarmonyVAEDecode, HarmonyVAEDecodeTiled
from .loaders import LoadHarmonizationUNet, LoadHarmonyVAE
from .refinement import HarmonyRefine, LoadHarmonyRefinement


class DiffHarmonyExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadHarmonyVAE,
            LoadHarmonizationUNet,
            LoadHarmonyRefinement,
            HarmonyConditioning,
            HarmonyVAEDecode,
            HarmonyVAEDecodeTiled,
            HarmonyRefine,
        ]
