"""Load Harmony Refinement and Harmony Refine: the refinement stage on images of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io

from ..common.images import paste_background as paste
from . import images as host_images
from .loaders import CATEGORY
from .managed import managed, register_folder

if TYPE_CHECKING:
    from ..refinement import HarmonyRefinement

REFINEMENTS = "harmony_refinement"
Refinement = io.Custom("DIFFHARMONY_REFINEMENT")
# Values that one image takes at the stage's size, per pixel and per channel of the first level: 17.5 measured for the released widths.
REFINEMENT_MEMORY = 20

register_folder(REFINEMENTS)


class HostRefinement:
    """A refinement model under the host's memory management."""

    def __init__(self, model: HarmonyRefinement):
        self.device = model_management.vae_device()
        self.dtype = model_management.vae_dtype(self.device)
        self.model = torch.nn.Module.to(model, self.dtype)
        self.patcher = managed(self.model, self.device)

    def refine(self, harmonized: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """harmonized, composite [B,3,H,W] in 0..1, mask [B,1,H,W] in 0..1 -> [B,3,H,W] in 0..1 on the host's intermediate device."""
        from ..refinement import refine

        height, width = self.model.size
        memory = height * width * self.model.config.block_out_channels[0] * REFINEMENT_MEMORY * self.dtype.itemsize
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        bar = comfy.utils.ProgressBar(harmonized.shape[0])

        def progress(done: int, total: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        refined = refine(self.model, harmonized * 2 - 1, composite * 2 - 1, mask, device=self.device, progress=progress)
        return ((refined + 1) / 2).to(model_management.intermediate_device())


def load_host_refinement(refinement_name: str) -> HostRefinement:
    from ..refinement import load_refinement

    return HostRefinement(load_refinement(folder_paths.get_full_path_or_raise(REFINEMENTS, refinement_name)))


def refine_images(
    refinement: HostRefinement, images: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor, paste_background: bool
) -> torch.Tensor:
    """IMAGE -> IMAGE [B,H,W,3], refined, of the images' own size.

    composite: IMAGE of that size, batch 1 or B. mask: MASK of batch 1 or B, of any size. With `paste_background` everything outside
    the mask is the composite's own pixels.
    Raises: ValueError for shapes that do not fit. Source: SPEC §10.
    """
    images, composite = (host_images.rgb_image(image) for image in (images, composite))
    if images.shape[1:3] != composite.shape[1:3]:
        raise ValueError(
            f"images must have the composite's size, {composite.shape[2]} x {composite.shape[1]} px, got {images.shape[2]} x "
            f"{images.shape[1]} px. Connect the composite that was harmonized, or resize one of them."
        )
    mask = host_images.mask_for(mask, composite)
    images, composite, mask = host_images.same_batch(
        {"images": images.movedim(-1, 1), "composite": composite.movedim(-1, 1), "mask": mask}
    )
    refined = refinement.refine(images, composite, mask)
    if paste_background:
        refined = paste(refined, composite.to(refined), mask.to(refined))
    return refined.movedim(1, -1)


class LoadHarmonyRefinement(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadRefinement",
            display_name="Load Harmony Refinement",
            category=CATEGORY,
            description="Loads a refinement model, which mends a harmonized image after decoding.",
            inputs=[
                io.Combo.Input(
                    "refinement_name",
                    options=folder_paths.get_filename_list(REFINEMENTS),
                    tooltip="A refinement file in models/harmony_refinement.",
                )
            ],
            outputs=[Refinement.Output(display_name="refinement", tooltip="For Harmony Refine.")],
        )

    @classmethod
    def execute(cls, refinement_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_refinement(refinement_name))


class HarmonyRefine(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyRefine",
            display_name="Harmony Refine",
            category=CATEGORY,
            description="Runs the refinement stage on harmonized images, at its own fixed size, and brings its change up to theirs.",
            search_aliases=["harmonize", "refinement"],
            inputs=[
                Refinement.Input("refinement", tooltip="A refinement model, from Load Harmony Refinement."),
                io.Image.Input("images", tooltip="The harmonized images, best decoded with paste_background off."),
                io.Image.Input("composite", tooltip="The composite image that was harmonized, of the same size."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the image where its size differs."),
                io.Boolean.Input(
                    "paste_background",
                    default=True,
                    tooltip="Keep the composite's own pixels outside the mask, so that only the foreground changes.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The refined images, of the same size.")],
        )

    @classmethod
    def execute(cls, refinement, images, composite, mask, paste_background=True) -> io.NodeOutput:
        return io.NodeOutput(refine_images(refinement, images, composite, mask, paste_background))
