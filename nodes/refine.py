"""Harmony Refine: the refinement stage on images of any size."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..common.images import paste_background as paste
from ..common.masks import check_size, same_batch
from . import host_images
from .host_models import HostRefinement
from .loaders import CATEGORY, Refinement


def refine_images(
    refinement: HostRefinement, images: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor, paste_background: bool
) -> torch.Tensor:
    """IMAGE -> IMAGE [B,H,W,3], refined, of the images' own size.

    composite: IMAGE of that size, batch 1 or B. mask: MASK of batch 1 or B, of any size. With `paste_background` everything outside
    the mask is the composite's own pixels.
    Raises: ValueError for shapes that do not fit. Source: SPEC §10.
    """
    images, composite = (host_images.to_planes(image) for image in (images, composite))
    check_size("images", images, "composite", composite, "Connect the composite that was harmonized, or resize one of them.")
    mask = host_images.mask_for(mask, composite)
    images, composite, mask = same_batch({"images": images, "composite": composite, "mask": mask})
    refined = refinement.refine(images, composite, mask)
    if paste_background:
        refined = paste(refined, composite.to(refined), mask.to(refined))
    return host_images.to_image(refined)


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
