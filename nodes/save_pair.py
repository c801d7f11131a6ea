"""Save Harmonization Pair: composites, mask and real image as training data, below the host's output folder."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import io, ui

from . import host_images
from .loaders import CATEGORY


def save_images(
    composite: torch.Tensor, mask: torch.Tensor, real: torch.Tensor, dataset: str, subset: str, name: str
) -> list[ui.SavedResult]:
    """Write IMAGE [B,H,W,3] composites, MASK and IMAGE [1,H,W,3] in iHarmony4's layout; where the composites are now.

    Raises: ValueError as `inverse.pairs.save_pair` does, and for a mask without foreground.
    """
    from ..inverse.pairs import save_pair

    composite, real = (host_images.to_library(image) for image in (composite, real))
    mask = host_images.mask_for(mask, real)
    paths = save_pair(folder_paths.get_output_directory(), dataset, subset, name, composite, mask, real)
    return [ui.SavedResult(path.name, path.parent.as_posix(), io.FolderType.output) for path in paths]


class SaveHarmonizationPair(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonySaveHarmonizationPair",
            display_name="Save Harmonization Pair",
            category=CATEGORY,
            description="Adds composites, their mask and their real image to a data set in iHarmony4's layout in ComfyUI's output folder.",
            search_aliases=["dataset", "iharmony4", "training data"],
            is_output_node=True,
            inputs=[
                io.Image.Input("composite", tooltip="The composites of the real image: one, or a batch."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the real image where its size differs."),
                io.Image.Input("real", tooltip="The real image that the composites were made of."),
                io.String.Input("dataset", default="harmonization_pairs", tooltip="The data set's folder, in ComfyUI's output folder."),
                io.String.Input("subset", default="Generated", tooltip="The subset's folder, in the data set's."),
                io.String.Input("name", default="pair", tooltip="What the files' names begin with. A number follows: nothing is overwritten."),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, composite, mask, real, dataset="harmonization_pairs", subset="Generated", name="pair") -> io.NodeOutput:
        return io.NodeOutput(ui=ui.SavedImages(save_images(composite, mask, real, dataset, subset, name)))
