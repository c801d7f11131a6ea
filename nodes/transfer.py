"""Harmony Working Size and Transfer Harmony: down to the size that a model was trained at, and its light back to every pixel."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..common.images import resize_image
from ..common.masks import LEVEL, ROUNDING, same_batch, warn_if_dull
from . import host_images
from .loaders import CATEGORY, facts_of


def to_working_size(model, image: torch.Tensor, mask: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE and MASK of the longer side `size`, or where that is 0 of the best size that the MODEL's file says it was trained at.

    image: IMAGE [B,H,W,3 or 4]. mask: MASK [B or 1,h,w] of any size. Returns: IMAGE [B,h,w,3], MASK [B or 1,h,w].
    Raises: ValueError for shapes that do not fit. Source: DESIGN.md, data flow 5.
    """
    from ..diffusion.inference import tell_size, working_size

    planes = host_images.to_planes(image)
    mask = host_images.mask_for(mask, planes)
    wanted = working_size(*planes.shape[-2:], size or None, facts_of(model).sizes)
    tell_size(wanted, tuple(planes.shape[-2:]), tuple(facts_of(model).sizes))
    resized = resize_image(planes * 2 - 1, wanted)
    return host_images.to_image((resized + 1) / 2).clamp(0, 1), resize_image(mask, wanted)[:, 0].clamp(0, 1)


def transfer(
    image: torch.Tensor, mask: torch.Tensor, harmonized: torch.Tensor, model, strength: float, paste_background: bool, detail: str = "transfer"
) -> torch.Tensor:
    """IMAGE -> IMAGE [B,H,W,3]: the original under the smooth change of light that leads to the harmonized image, or as `detail` says.

    image: IMAGE [B or 1,H,W,3 or 4], the composite at full size. mask: MASK of any size. harmonized: IMAGE [B,h,w,3], of that shape at any
    size, decoded without its background pasted. model: the MODEL whose calibration counts, or None. detail: as of `diffusion.harmonize`.
    Raises: ValueError for shapes that do not fit, or a mask without foreground. Source: DESIGN.md, data flow 5.
    """
    from ..diffusion.inference import bring_to_size

    planes, result = host_images.to_planes(image), host_images.to_library(harmonized)
    mask = host_images.mask_for(mask, planes)
    warn_if_dull(mask)
    planes, mask, result = same_batch({"image": planes, "mask": mask, "harmonized": result})
    height, width = planes.shape[-2:]
    small_height, small_width = result.shape[-2:]
    if abs(small_width * height - small_height * width) > max(height, width):  # more than a pixel of the harmonized image
        raise ValueError(
            f"harmonized must have the image's shape, {width} x {height} px at any size, got {small_width} x {small_height} px. "
            "Connect what was decoded from this image, or from 'Harmony Working Size' of it."
        )
    relit = bring_to_size(
        planes * 2 - 1, mask, result.clamp(-1, 1), calibration=facts_of(model).calibration if model is not None else None, detail=detail,
        strength=strength, paste_background=paste_background,
    ).add_(1).div_(2).clamp_(0, 1)  # fmt: skip
    return with_exact_background(planes, relit, mask, strength, paste_background)


def with_exact_background(planes: torch.Tensor, relit: torch.Tensor, mask: torch.Tensor, strength: float, paste_background: bool) -> torch.Tensor:
    """IMAGE [B,H,W,3] of [B,3,H,W], 0..1, with what did not change as it was: the way to -1..1 and back rounds, and the host cuts 8 bits off."""
    kept = mask <= LEVEL + ROUNDING if paste_background else torch.zeros_like(mask, dtype=torch.bool)
    return host_images.to_image(torch.where(kept if strength else torch.ones_like(kept), planes, relit))


class HarmonyWorkingSize(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyWorkingSize",
            display_name="Harmony Working Size",
            category=CATEGORY,
            description="Brings an image and its mask to the size that the model was trained at. Transfer Harmony brings its light back.",
            search_aliases=["harmonize", "resize", "downscale"],
            inputs=[
                io.Model.Input("model", tooltip="The model, from Load Harmonization UNet, whose file says at which sizes it was trained."),
                io.Image.Input("image", tooltip="The composite image, of any size."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the image where its size differs."),
                io.Int.Input("size", default=0, min=0, max=8192, step=8, tooltip="The longer side in pixels; 0 = the best for the model."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="For Harmony Conditioning and Harmony VAE Decode."),
                io.Mask.Output(display_name="mask", tooltip="For Harmony Conditioning and Harmony VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, model, image, mask, size=0) -> io.NodeOutput:
        return io.NodeOutput(*to_working_size(model, image, mask, size))


class TransferHarmony(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyTransfer",
            display_name="Transfer Harmony",
            category=CATEGORY,
            description="Gives the original image, at its full size, the light of the harmonized one. Detail, text and grain stay the original's.",
            search_aliases=["harmonize", "relight", "color match", "match light", "lighting"],
            inputs=[
                io.Image.Input("image", tooltip="The composite image at its full size."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the image where its size differs."),
                io.Image.Input("harmonized", tooltip="What Harmony VAE Decode made of the image, at any size, with paste_background off."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="How much of the change; 0 = none."),
                io.Boolean.Input(
                    "paste_background",
                    default=True,
                    tooltip="Keep the image's own pixels outside the mask, so that only the foreground changes.",
                ),
                io.Model.Input("model", optional=True, tooltip="The model that harmonized: changes as small as its own errors then shrink."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The harmonized image, of the original's size.")],
        )

    @classmethod
    def execute(cls, image, mask, harmonized, strength=1.0, paste_background=True, model=None) -> io.NodeOutput:
        return io.NodeOutput(transfer(image, mask, harmonized, model, strength, paste_background))
