"""Crop Foreground and Stitch Foreground: small foregrounds harmonized at a size at which the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from comfy_api.latest import io

from ...common.masks import check_foreground, same_batch
from ...diffusion.crop import CONTEXT, LARGEST_CONTEXT, SMALLEST_SIDE, Crop, crop_foregrounds, stitch_crops
from .. import host_images
from ..loaders import CATEGORY


class Cut(NamedTuple):
    """Where a crop comes from: its window, and the images with their masks, [B, 3, H, W] and [B, 1, H, W] in 0..1."""

    crop: Crop
    images: torch.Tensor
    mask: torch.Tensor


Cuts = io.Custom("DIFFHARMONY_CROP")


def crop_images(
    image: torch.Tensor, mask: torch.Tensor, context: float, min_size: int
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[Cut]]:
    """IMAGE [B or 1,H,W,3 or 4], MASK of any size -> for each foreground an IMAGE [1,h,w,3], its MASK [1,h,w] and where both come from.

    Raises: ValueError for shapes that do not fit, or a mask without foreground.
    """
    images = host_images.to_planes(image)
    mask = host_images.mask_for(mask, images)
    check_foreground(mask, host_images.EMPTY_MASK)
    images, mask = same_batch({"image": images, "mask": mask})
    cuts = [Cut(crop, images, mask) for crop in crop_foregrounds(mask, context, min_size)]
    return [host_images.to_image(cut.crop.of(images)) for cut in cuts], [cut.crop.of(mask)[:, 0] for cut in cuts], cuts


def stitch_images(results: Sequence[torch.Tensor], cuts: Sequence[Cut], mask: torch.Tensor | None) -> torch.Tensor:
    """IMAGE [1,h,w,3] of each crop -> IMAGE [B,H,W,3]: the images that the crops were cut out of, with the results blended in.

    mask: MASK of any size to blend by; None is the one that was cropped by. Raises: ValueError for shapes or numbers that do not fit.
    """
    if len(results) != len(cuts):
        raise ValueError(f"images must be one for each crop, got {len(results)} for {len(cuts)}. Connect both to one 'Crop Foreground'.")
    if any(cut.images is not cuts[0].images for cut in cuts):
        raise ValueError("crops must come from one 'Crop Foreground', got those of several. Stitch each of them by itself.")
    images = cuts[0].images
    mask = cuts[0].mask if mask is None else host_images.mask_for(mask, images)
    stitched = stitch_crops(images, mask, [cut.crop for cut in cuts], [host_images.to_planes(result) for result in results])
    return host_images.to_image(stitched)


class CropForeground(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyCropForeground",
            display_name="Crop Foreground",
            category=CATEGORY,
            description="Cuts out a window around each foreground, so that the model sees small ones large. Stitch Foreground puts them back.",
            search_aliases=["harmonize", "crop", "inpaint crop", "zoom"],
            inputs=[
                io.Image.Input("image", tooltip="The composite image, of any size."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the image where its size differs."),
                io.Float.Input(
                    "context",
                    default=CONTEXT,
                    min=1.0,
                    max=LARGEST_CONTEXT,
                    step=0.1,
                    tooltip="The window's side as a multiple of the foreground's longer side: how much of the background is seen with it.",
                ),
                io.Int.Input("min_size", default=256, min=SMALLEST_SIDE, max=8192, tooltip="The least side in pixels: what the model works at."),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="A window for each foreground; what follows runs once for each."),
                io.Mask.Output(display_name="masks", is_output_list=True, tooltip="The mask of each window."),
                Cuts.Output(display_name="crops", is_output_list=True, tooltip="Where each window comes from. For Stitch Foreground."),
            ],
        )

    @classmethod
    def execute(cls, image, mask, context=CONTEXT, min_size=256) -> io.NodeOutput:
        return io.NodeOutput(*crop_images(image, mask, context, min_size))


class StitchForeground(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyStitchForeground",
            display_name="Stitch Foreground",
            category=CATEGORY,
            description="Puts what Crop Foreground cut out back into the whole image. Outside the mask every pixel stays as it was.",
            search_aliases=["harmonize", "stitch", "uncrop", "inpaint stitch", "paste"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The harmonized windows, each of its window's size."),
                Cuts.Input("crops", tooltip="Where they come from, of Crop Foreground."),
                io.Mask.Input("mask", optional=True, tooltip="White = what is put back; without it, by the mask that was cropped by."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The whole image.")],
        )

    @classmethod
    def execute(cls, images, crops, mask=(None,)) -> io.NodeOutput:
        return io.NodeOutput(stitch_images(images, crops, mask[0]))
