"""Composite Foreground: a cut-out on a background."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...common.masks import same_batch
from ...synthetic.compose import LARGEST_SCALE, compose_foreground
from .. import host_images
from ..loaders import CATEGORY

# The frontend's search puts names before aliases, and core nodes' names have these words.
NODE = "Composite Foreground (Paste, Blend)"


def compose(
    background: torch.Tensor, foreground: torch.Tensor, mask: torch.Tensor | None, *, invert_mask: bool = False, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE of a cut-out on IMAGE of a background -> composite IMAGE [B,H,W,3] and its MASK [B,H,W], of the background's size.

    foreground: IMAGE [B or 1,h,w,4], its fourth channel 1 where it stays, or [B or 1,h,w,3]. mask: MASK of any size, 1 = stays; with four
    channels optional, and both count. invert_mask: 1 in mask = goes. options: as `compose_foreground`.
    Raises: ValueError for shapes, ranges or options that do not fit, or where nothing says what stays, or what stays is where the
    cut-out is transparent.
    """
    planes, behind = host_images.to_planes(foreground), host_images.to_planes(background)
    alphas = {}
    if foreground.shape[-1] == 4:
        alphas["transparency of foreground"] = host_images.mask_for(foreground[..., 3], planes)
    if mask is not None:
        mask = host_images.mask_for(mask, planes)
        alphas["mask"] = 1 - mask if invert_mask else mask
    if not alphas:
        raise ValueError(
            "foreground must have transparency (4 channels), or come with a mask, got 3 channels and no mask. "
            "Connect the mask of its 'Load Image' and switch invert_mask on."
        )
    alpha = torch.stack(same_batch(alphas)).prod(dim=0)
    host_images.check_lit(planes, alpha, f"Switch invert_mask {'off' if invert_mask else 'on'}.")
    composite, mask = compose_foreground(planes * 2 - 1, alpha, behind * 2 - 1, **options)
    # the way to -1..1 and back rounds
    return host_images.to_image(torch.where(mask == 0, behind, (composite + 1) / 2)), mask[:, 0]


class ComposeForeground(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyComposeForeground",
            display_name=NODE,
            category=CATEGORY,
            description="Places a cut-out on a background, without the fringe of its old background, and gives the mask for harmonizing it.",
            search_aliases=["compose foreground", "composite", "paste", "blend", "overlay", "cutout", "defringe", "harmonize"],
            inputs=[
                io.Image.Input("background", tooltip="The photograph to place it on. The result has its size."),
                io.Image.Input("foreground", tooltip="The cut-out: an image with transparency (4 channels), or any image with a mask."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White = what stays of the foreground. Load Image's own mask is white where its picture is transparent: "
                    "switch invert_mask on.",
                ),
                io.Boolean.Input("invert_mask", default=False, tooltip="On: black in the mask is what stays, as in the mask of Load Image."),
                io.Float.Input("x", default=0.5, min=-1.0, max=2.0, step=0.01, tooltip="Where the object's middle lies: 0 = left edge, 1 = right."),
                io.Float.Input("y", default=0.5, min=-1.0, max=2.0, step=0.01, tooltip="Where the object's middle lies: 0 = upper edge, 1 = lower."),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=LARGEST_SCALE,
                    step=0.01,
                    tooltip="The object's height as a share of the background's; 0 = the cut-out's own pixels.",
                ),
                io.Float.Input("feather", default=0.0, min=0.0, max=256.0, step=0.5, tooltip="Softens the edge over so many pixels."),
                io.Boolean.Input(
                    "decontaminate",
                    default=True,
                    tooltip="Give soft edges the foreground's own colour: what shines through of the old background goes.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The composite, of the background's size."),
                io.Mask.Output(display_name="mask", tooltip="White where the foreground lies now."),
            ],
        )

    @classmethod
    def execute(cls, background, foreground, mask=None, **options) -> io.NodeOutput:
        return io.NodeOutput(*compose(background, foreground, mask, **options))
