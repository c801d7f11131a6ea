"""Harmonization Metrics and Difference View: a result beside the real image, in figures and as a picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from PIL import Image

from ...common.images import tensor_to_pil
from ...common.masks import check_foreground, same_batch
from ...evaluation.conventions import CONVENTIONS
from ...evaluation.difference import difference_view
from ...evaluation.metrics import measure, summarize
from .. import host_images
from ..loaders import CATEGORY

ABSOLUTE, SIGNED = "absolute", "signed"
FIGURES = ("PSNR", "MSE", "fMSE")


def measure_images(
    image: torch.Tensor, real: torch.Tensor, mask: torch.Tensor, convention: str, size: int
) -> tuple[str, dict[str, float]]:
    """IMAGE [B,h,w,3 or 4] against IMAGE [B or 1,H,W,3 or 4]: a line for each image, and for several their means; the means as numbers.

    mask: MASK of any size. size: the square side that all are measured at, 0 = their own. Pixels are rounded to 8 bits, as in a file.
    Raises: ValueError for shapes that do not fit, or a mask that leaves an image without foreground. Source: SPEC §8.
    """
    images, reals = host_images.to_library(image), host_images.to_library(real)
    masks = host_images.mask_for(mask, reals)
    batch = same_batch({"image": images, "real": reals, "mask": masks})
    measured = []
    for number, (one, other, weight) in enumerate(zip(*batch, strict=True)):
        check_foreground(weight, host_images.EMPTY_MASK, "mask" if len(batch[2]) == 1 else f"mask of image {number}")
        picture = Image.fromarray((weight[0].cpu() * 255).round().byte().numpy())
        measured.append(measure(tensor_to_pil(one[None])[0], tensor_to_pil(other[None])[0], picture, convention, size=size or None))
    figures = [(f"image {number}", one.values()) for number, one in enumerate(measured)]
    means = summarize(measured)
    lines = figures if len(figures) == 1 else [*figures, (f"mean of {len(figures)}", means)]
    return "\n".join(f"{name}: {_line(values)}" for name, values in lines), {name: _number(means[name]) for name in FIGURES}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _line(values: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(values[name]):.2f}{' dB' if name == 'PSNR' else ''}" for name in FIGURES)


class HarmonizationMetrics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyMetrics",
            display_name="Harmonization Metrics",
            category=CATEGORY,
            description="How near a harmonized image is to the real one: PSNR, MSE and fMSE, as published work measures them.",
            search_aliases=["PSNR", "MSE", "fMSE", "evaluate", "compare images", "harmonize"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The harmonized image, or the composite for comparison."),
                io.Image.Input("real", tooltip="The real photograph."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the photograph where its size differs."),
                io.Combo.Input("convention", options=list(CONVENTIONS), default="diffharmony", tooltip="Whose way of measuring: figures differ by it."),
                io.Int.Input("size", default=256, min=0, max=8192, tooltip="The square side to measure at, 256 in publications; 0 = the images' own."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The figures of each image, one a line, and their means."),
                io.Float.Output(display_name="psnr", tooltip="PSNR in dB, mean over the images; larger is better."),
                io.Float.Output(display_name="mse", tooltip="Mean squared error, of values 0 to 255."),
                io.Float.Output(display_name="fmse", tooltip="Mean squared error of the foreground."),
            ],
        )

    @classmethod
    def execute(cls, image, real, mask, convention="diffharmony", size=256) -> io.NodeOutput:
        text, figures = measure_images(image, real, mask, convention, size)
        return io.NodeOutput(text, *figures.values(), ui=ui.PreviewText(text))


class DifferenceView(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyDifference",
            display_name="Difference View",
            category=CATEGORY,
            description="Shows where and how much two images differ, amplified.",
            search_aliases=["compare images", "diff", "before after", "error map", "harmonize"],
            inputs=[
                io.Image.Input("image", tooltip="The changed image."),
                io.Image.Input("reference", tooltip="What it is compared with, of the same size: the composite, or the real photograph."),
                io.Float.Input("gain", default=4.0, min=0.1, max=100.0, step=0.1, tooltip="How many times as large the difference is shown."),
                io.Combo.Input(
                    "mode",
                    options=[ABSOLUTE, SIGNED],
                    default=ABSOLUTE,
                    tooltip="absolute: black = equal. signed: grey = equal, brighter where image is brighter.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The difference.")],
        )

    @classmethod
    def execute(cls, image, reference, gain=4.0, mode=ABSOLUTE) -> io.NodeOutput:
        view = difference_view(host_images.to_library(image), host_images.to_library(reference), gain, signed=mode == SIGNED)
        return io.NodeOutput(host_images.to_image((view + 1) / 2))
