"""Harmony VAE Decode and its tiled form: latents to pixels under the composite image and its mask."""

from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io

from ..common.images import paste_background as paste
from ..common.masks import binarize_mask, check_batch, same_batch
from . import host_images
from .host_vae import HostHarmonyVAE
from .loaders import CATEGORY

MODES = ("auto", "exact", "bounded")  # harmony_vae.out_of_memory.MODES, which would import diffusers when the host starts


def decode_harmonized(
    samples: dict,
    vae,
    image: torch.Tensor,
    mask: torch.Tensor,
    paste_background: bool,
    mode: str = "auto",
    tile: int | None = None,
    node: str = "Harmony VAE Decode",
    progress: comfy.utils.ProgressBar | None = None,
) -> torch.Tensor:
    """LATENT -> IMAGE [B,H,W,3], decoded under (image, mask), of the image's own size.

    image: IMAGE of batch 1 or B. mask: MASK of batch 1 or B, of any size. With `paste_background` everything outside the mask
    is the image's own pixels. mode, tile, progress: as `HostHarmonyVAE.decode_conditionally` has it.
    Raises: ValueError for a VAE that is not a Harmony-VAE, and for shapes that do not fit. Source: SPEC §3.
    """
    check_harmony_vae(vae, node)
    latent = _latent(samples, vae)
    factor = vae.downscale_ratio
    image = host_images.to_planes(image)
    mask = host_images.mask_for(mask, image)
    for name, tensor in (("image", image), ("mask", mask)):
        check_batch(name, tensor.shape[0], latent.shape[0])
    image, mask = same_batch({"image": image, "mask": mask})
    fitted_image, fitted_mask = (host_images.fit_to_latent(pixels, latent, factor) for pixels in (image, mask))
    decoded = vae.decode_conditionally(latent, fitted_image, binarize_mask(fitted_mask), mode, tile, progress)
    # A latent of VAE Encode stands for the middle of an image of odd size: there the cropped image is the one to compare with.
    if all(padded >= side for padded, side in zip(decoded.shape[-2:], image.shape[-2:])):
        decoded = decoded[..., : image.shape[-2], : image.shape[-1]]
    else:
        image, mask = fitted_image, fitted_mask
    if paste_background:
        decoded = paste(decoded, image.to(decoded), mask.to(decoded))
    return host_images.to_image(decoded)


def check_harmony_vae(vae, node: str) -> None:
    """Refuse any other VAE, naming the node that needs it. Raises: ValueError."""
    if not isinstance(vae, HostHarmonyVAE):
        found = type(getattr(vae, "first_stage_model", vae)).__name__
        raise ValueError(f"{node} needs a Harmony-VAE; got a plain VAE ({found}), load a Harmony-VAE with 'Load Harmony-VAE'.")


def _latent(samples: dict, vae: HostHarmonyVAE) -> torch.Tensor:
    latent = samples["samples"]
    if latent.is_nested or latent.ndim != 4 or latent.shape[1] != vae.latent_channels:
        shape = "a nested latent" if latent.is_nested else list(latent.shape)
        raise ValueError(f"samples must be a latent [B, {vae.latent_channels}, h, w], got {shape}. Sample with a harmonization UNet.")
    return latent


def _inputs() -> list:
    return [
        io.Latent.Input("samples", tooltip="The latent to decode, from KSampler."),
        io.Vae.Input("vae", tooltip="A Harmony-VAE, from Load Harmony-VAE."),
        io.Image.Input("image", tooltip="The composite image that was harmonized."),
        io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the image where its size differs."),
        io.Boolean.Input(
            "paste_background",
            default=True,
            tooltip="Keep the image's own pixels outside the mask, so that only the foreground changes.",
        ),
    ]


class HarmonyVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyVAEDecode",
            display_name="Harmony VAE Decode",
            category=CATEGORY,
            description="Decodes a harmonized latent under the composite image and its mask, which keeps the image's detail and text sharp.",
            search_aliases=["harmonize", "vae decode", "decode latent"],
            inputs=_inputs(),
            outputs=[io.Image.Output(display_name="image", tooltip="The harmonized image, of the composite's size.")],
        )

    @classmethod
    def execute(cls, samples, vae, image, mask, paste_background=True) -> io.NodeOutput:
        return io.NodeOutput(decode_harmonized(samples, vae, image, mask, paste_background))


class HarmonyVAEDecodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        tile_size = io.Int.Input(
            "tile_size",
            default=512,
            min=64,
            max=4096,
            step=32,
            tooltip="Side of a tile in pixels. Smaller tiles need less memory and take longer.",
        )
        mode = io.Combo.Input(
            "mode",
            options=list(MODES),
            default=MODES[0],
            optional=True,
            tooltip="exact equals the whole decode; bounded is close to it in memory that does not grow with the image. auto decodes as a whole "
            "where that fits into the free memory, else exact, else bounded.",
        )
        return io.Schema(
            node_id="DiffHarmonyVAEDecodeTiled",
            display_name="Harmony VAE Decode (Tiled)",
            category=CATEGORY,
            description="Harmony VAE Decode in tiles, for images that do not fit into memory at once.",
            search_aliases=["harmonize", "vae decode tiled"],
            inputs=[*_inputs(), tile_size, mode],
            outputs=[io.Image.Output(display_name="image", tooltip="The harmonized image, of the composite's size.")],
        )

    @classmethod
    def execute(cls, samples, vae, image, mask, paste_background=True, tile_size=512, mode=MODES[0]) -> io.NodeOutput:
        node = "Harmony VAE Decode (Tiled)"
        return io.NodeOutput(decode_harmonized(samples, vae, image, mask, paste_background, mode, tile_size, node))
