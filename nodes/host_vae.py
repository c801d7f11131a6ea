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
    from ..harmony_vae.out_of_memory import WithinMemory

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


def _raise_other(error: Exception) -> None:
    from ..common.devices import raise_unless_out_of_memory

    try:
        model_management.raise_non_oom(error)
    except Exception:  # of a CPU's memory the host does not know
        raise_unless_out_of_memory(error)


def within_memory(harmony_vae: HarmonyVAE, mode: str = "auto", tile: int | None = None) -> WithinMemory:
    """Within the memory that the host reports. Raises: ValueError for a mode that there is not."""
    from ..harmony_vae.out_of_memory import Memory, WithinMemory

    return WithinMemory(
        harmony_vae, Memory(model_management.get_free_memory, _raise_other, model_management.soft_empty_cache), mode=mode, tile=tile
    )


class TensorVAE(torch.nn.Module):
    """The calls that the host makes on a VAE's module: tensors in, tensors out. An encode that does not fit goes on in tiles that equal it
    before the host blends any."""

    def __init__(self, harmony_vae: HarmonyVAE):
        super().__init__()
        self.harmony_vae = harmony_vae

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return within_memory(self.harmony_vae).encode(pixels)

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
        mode: str = "auto",
        tile: int | None = None,
        progress: comfy.utils.ProgressBar | None = None,
    ) -> torch.Tensor:
        """Decode latents under (image, mask), one image after the other.

        samples: [B,c,h,w], unscaled. image: [B or 1,3,h*f,w*f] in 0..1. mask: [B or 1,1,h*f,w*f] in {0,1}. One image and mask are
        encoded once for all latents. mode, tile: as of `harmony_vae.out_of_memory.WithinMemory`, where memory runs out too. progress: to go
        on with, one for each image, instead of a progress bar of its own.
        Raises: ValueError for a mode that there is not; RuntimeError when the result is not finite.
        Returns [B,3,h*f,w*f] in 0..1 on the host's intermediate device.
        """
        from ..harmony_vae.memory import memory_needed

        decoder = within_memory(self._vae, mode, tile)
        needed = memory_needed(self._vae, tuple(image.shape[2:]), None if mode == "auto" else mode, **({"tile": tile} if tile else {}))
        model_management.load_models_gpu([self.patcher], memory_required=needed)
        image = self.process_input(image)
        shared = image.shape[0] == mask.shape[0] == 1
        progress = progress or comfy.utils.ProgressBar(samples.shape[0])
        decoded = []
        for index in range(samples.shape[0]):
            model_management.throw_exception_if_processing_interrupted()
            if index == 0 or not shared:
                decoder.condition_on(self._to_device(image, index), self._to_device(mask, index))
            result = decoder.decode(self._to_device(samples, index))
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

    def _to_device(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        one = batch[index % batch.shape[0]].unsqueeze(0)
        return one.to(device=self.device, dtype=self.vae_dtype)
