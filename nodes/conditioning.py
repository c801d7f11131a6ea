"""Harmony Conditioning: what a core KSampler needs to harmonize an image."""

from __future__ import annotations

import logging

import comfy.sample
import comfy.utils
import torch
from comfy import model_management
from comfy_api.latest import io

from ..common.images import pad_to_multiple
from ..common.masks import binarize_mask, mask_to_latent, same_batch, warn_if_dull
from .host_images import mask_for, to_image, to_planes
from .loaders import CATEGORY, DIRECTION

logger = logging.getLogger("diffharmony")

LATENT_CHANNELS = 4
SAMPLER, SCHEDULER, CFG = "euler_ancestral", "normal", 1.0


def condition_sampling(conditioning, vae, image: torch.Tensor, mask: torch.Tensor):
    """CONDITIONING that carries the encoded image and its mask, and an empty LATENT of their size and batch.

    image: IMAGE [B,H,W,3 or 4]. mask: MASK [B or 1,h,w] of any size. Sides that are not multiples of 8 are padded; Harmony VAE
    Decode cuts them back. The latent is empty because any other is added to the noise.
    Raises: ValueError for shapes that do not fit, a mask without foreground, or a VAE of other latents or of the UNet's other
    direction. Source: SPEC §2.
    """
    image = to_planes(image)
    image, mask = same_batch({"image": image, "mask": mask_for(mask, image)})
    warn_if_dull(mask)
    if binarize_mask(mask).all():
        logger.warning("The mask is white everywhere: there is no background to harmonize with.")
    _check_vae(vae, conditioning)
    factor = vae.spacial_compression_encode()
    latent = vae.encode(to_image(pad_to_multiple(image, factor)))
    values = {
        "concat_latent_image": latent,
        "concat_mask": mask_to_latent(pad_to_multiple(mask, factor), latent.shape[-2:]),
    }
    kept = [(embeds, {name: value for name, value in options.items() if name != DIRECTION}) for embeds, options in conditioning]
    conditioning = [[embeds, {**options, **values}] for embeds, options in kept]
    empty = torch.zeros(latent.shape, device=model_management.intermediate_device())
    return conditioning, {"samples": empty}


def sample_latent(model, conditioning, latent: torch.Tensor, seed: int, steps: int, callback) -> torch.Tensor:
    """A latent of the host's sampler under what `condition_sampling` made, shaped as its own. callback: called after each step."""
    noise = comfy.sample.prepare_noise(latent, seed)
    quiet = not comfy.utils.PROGRESS_BAR_ENABLED
    return comfy.sample.sample(
        model, noise, steps, CFG, SAMPLER, SCHEDULER, conditioning, conditioning, latent, callback=callback, disable_pbar=quiet, seed=seed
    )


def _check_vae(vae, conditioning) -> None:
    if vae.latent_channels != LATENT_CHANNELS:
        name = type(vae.first_stage_model).__name__
        raise ValueError(
            f"vae must have {LATENT_CHANNELS} latent channels, got {vae.latent_channels} ({name}). "
            "Load a Harmony-VAE with 'Load Harmony-VAE', or a VAE of Stable Diffusion 1.5."
        )
    wanted = next((options[DIRECTION] for _, options in conditioning if DIRECTION in options), None)
    found = getattr(vae, "direction", None)  # a plain VAE serves both
    if None not in (wanted, found) and wanted != found:
        raise ValueError(
            f"vae must be a Harmony-VAE of direction '{wanted}', as the UNet is, got '{found}'. Choose another file in 'Load Harmony-VAE'."
        )


class HarmonyConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyConditioning",
            display_name="Harmony Conditioning",
            category=CATEGORY,
            description="Prepares a composite image and its foreground mask for a KSampler with a harmonization UNet.",
            search_aliases=["harmonize", "relight", "composite"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The empty prompt of Load Harmonization UNet."),
                io.Vae.Input("vae", tooltip="The VAE that encodes the image: a Harmony-VAE, or any VAE with the same latents."),
                io.Image.Input("image", tooltip="The composite image: a foreground pasted on a background. Any size."),
                io.Mask.Input("mask", tooltip="White = the foreground to harmonize. Stretched to the image where its size differs."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For KSampler's positive."),
                io.Conditioning.Output(display_name="negative", tooltip="For KSampler's negative. At cfg 1 it is not used."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the image's size, for KSampler at denoise 1."),
            ],
        )

    @classmethod
    def execute(cls, conditioning, vae, image, mask) -> io.NodeOutput:
        conditioning, latent = condition_sampling(conditioning, vae, image, mask)
        return io.NodeOutput(conditioning, conditioning, latent)
