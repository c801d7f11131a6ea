"""A Harmony-VAE as the host's VAE: all of its core nodes take it, and it decodes under a condition besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from comfy import model_management
from comfy.ldm.models.autoencoder import AutoencoderKL

if TYPE_CHECKING:
    from ..harmony_vae import HarmonyVAE

# A conditional decode holds E_c's features besides what a plain decode needs. For Stable Diffusion's widths they come to 650
# values per image pixel, and the host counts 2178 for the decode itself.
CONDITION_MEMORY = 1.3

# The smallest VAE that the host can build. It only lets the host's constructor run; its module is replaced at once.
STAND_IN = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}


class TensorVAE(torch.nn.Module):
    """The calls that the host makes on a VAE's module: tensors in, tensors out."""

    def __init__(self, harmony_vae: HarmonyVAE):
        super().__init__()
        self.harmony_vae = harmony_vae

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.harmony_vae.encode(pixels).latent_dist.mode()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.harmony_vae.decode(z).sample


class HostHarmonyVAE(comfy.sd.VAE):
    """The host's VAE around a HarmonyVAE."""

    def __init__(self, harmony_vae: HarmonyVAE):
        super().__init__(sd=AutoencoderKL(**STAND_IN).state_dict(), config={"params": STAND_IN})
        self.direction = getattr(harmony_vae, "direction", None)
        self.latent_channels = harmony_vae.config.latent_channels
        self.downscale_ratio = self.upscale_ratio = harmony_vae.spatial_factor
        self.first_stage_model = TensorVAE(harmony_vae).to(self.vae_dtype).eval().requires_grad_(False)
        model_management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=model_management.vae_offload_device()
        )
        self.size = None
        self.model_size()

    def get_sd(self) -> dict[str, torch.Tensor]:
        """What the host's Save VAE writes: the library's own parameter names, and the config that shapes do not show."""
        from ..harmony_vae.checkpoint import state_with_metadata

        return state_with_metadata(self._vae)

    def decode_conditionally(
        self,
        samples: torch.Tensor,
        image: torch.Tensor,
        mask: torch.Tensor,
        tile: int | None = None,
        progress: comfy.utils.ProgressBar | None = None,
    ) -> torch.Tensor:
        """Decode latents under (image, mask), one image after the other; in tiles of `tile` pixels where it is given.

        samples: [B,c,h,w], unscaled. image: [B or 1,3,h*f,w*f] in 0..1. mask: [B or 1,1,h*f,w*f] in {0,1}. One image and mask are
        encoded once for all latents. progress: to go on with, one for each image, instead of a progress bar of its own.
        Raises: RuntimeError when the result is not finite.
        Returns [B,3,h*f,w*f] in 0..1 on the host's intermediate device. When memory runs out, the images not done yet are decoded in
        exact tiles under the same condition, and when it runs out again in bounded ones.
        """
        from ..harmony_vae.out_of_memory import decode_in_less_memory, fallback_tile
        from ..harmony_vae.tiles import TILE_MODES

        mode = None if tile is None else TILE_MODES[0]
        self._load(samples, tile)
        tile = tile or fallback_tile(tuple(image.shape[2:]), self.downscale_ratio)
        image = self.process_input(image)
        shared = image.shape[0] == mask.shape[0] == 1
        progress = progress or comfy.utils.ProgressBar(samples.shape[0])
        condition = None
        decoded = []

        def decode(mode: str | None) -> torch.Tensor:
            nonlocal condition
            if mode is not None:
                return self._vae.decode_tiled(z, one_image, one_mask, tile=tile, mode=mode).sample
            if condition is None or not shared:
                condition = self._vae.encode_condition(one_image, one_mask)
            return self._vae.decode(z, condition).sample

        def free() -> None:
            nonlocal condition
            condition = None
            model_management.soft_empty_cache()

        for index in range(samples.shape[0]):
            model_management.throw_exception_if_processing_interrupted()
            z, one_image, one_mask = (self._to_device(batch, index) for batch in (samples, image, mask))
            result, mode = decode_in_less_memory(decode, mode, tile, raise_other=model_management.raise_non_oom, free=free)
            if not torch.isfinite(result).all():
                raise RuntimeError(
                    f"decoded image must be finite, got NaN or infinity in {self.vae_dtype}. Start ComfyUI with --fp32-vae or --bf16-vae; "
                    "in float32 already, the latent or the Harmony-VAE file is broken: get the file again."
                )
            decoded.append(self.process_output(result.to(device=self.output_device, dtype=self.vae_output_dtype())))
            progress.update(1)
        return torch.cat(decoded)

    @property
    def _vae(self) -> HarmonyVAE:
        return self.first_stage_model.harmony_vae

    def _load(self, samples: torch.Tensor, tile: int | None) -> None:
        shape = list(samples.shape)
        if tile is not None:
            shape[-2:] = [min(side, tile // self.downscale_ratio) for side in shape[-2:]]
        memory = self.memory_used_decode(shape, self.vae_dtype) * CONDITION_MEMORY
        model_management.load_models_gpu([self.patcher], memory_required=memory)

    def _to_device(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        one = batch[index % batch.shape[0]].unsqueeze(0)
        return one.to(device=self.device, dtype=self.vae_dtype)
