"""Train the Harmony-VAE: E_c, D and the zero convolutions, E frozen (SPEC §3).

    diffharmony train-vae paper --init stable-diffusion-inpainting/vae --data.roots iHarmony4 --run.out runs/harmony-vae
    diffharmony train-vae tiny --init runs/autoencoder/vae.safetensors --data.roots data/tiny --run.out runs/tiny-harmony-vae
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from ..common.masks import mask_to_latent
from ..diffusion.sampler import sample_latents
from ..diffusion.unet import load_unet
from ..harmony_vae import HarmonyVAE, load_vae, save_harmony_vae
from .config import DataConfig, Direction, OptimConfig, RunConfig, TrainingConfig, as_dict, check, prepare
from .data import HarmonizationDataset
from .loop import Task, fit, sample_noise, sample_uniform
from .losses import reconstruction_loss
from .roles import condition_and_target


@dataclass(frozen=True)
class HarmonyVAETraining(TrainingConfig):
    """Reconstruct the target from its own latents, conditioned on (condition image, mask): SPEC eq. 2."""

    init: Path | None = None
    """A plain VAE (diffusers folder, or our file) to begin from, or a Harmony-VAE to train further."""
    direction: Direction = "harmonize"
    trainable: Literal["encoder_and_decoder", "conditional_encoder"] = "encoder_and_decoder"
    """E_c and D, or E_c only (the paper's ablation); zero convolutions always."""
    loss: Literal["squared", "l1"] = "squared"
    """squared: the paper. l1: the authors' code."""
    foreground_weight: float = 0.0
    """Weight of the foreground's own error, besides the whole image's."""
    latent_noise: float = 0.0
    """Largest noise on the latent, in units of its standard deviation; each sample draws its own amount from 0 up to it."""
    unet: Path | None = None
    """Harmonization UNet whose own latents z0' take the place of E(target) in some samples."""
    unet_share: float = 0.5
    """Share of the samples for which `unet` is used, when it is given."""


PRESETS: dict[str, tuple[str, HarmonyVAETraining]] = {
    "paper": (
        "SPEC §3: all iHarmony4, 256 px, AdamW, lr 1e-4 after 2 % warm-up, 10 epochs, EMA 0.999, squared error",
        HarmonyVAETraining(
            data=DataConfig(size=256, workers=8),
            optim=OptimConfig(learning_rate=1e-4, epochs=10, batch_size=32),
            run=RunConfig(out=Path("runs/harmony-vae")),
        ),
    ),
    "tiny": (
        "the tiny family: small crops, noise on the latent, made for two CPU cores",
        HarmonyVAETraining(
            data=DataConfig(size=128, min_crop=0.5, workers=0),
            optim=OptimConfig(learning_rate=5e-4, schedule="cosine", batch_size=8, steps=2500, ema_decay=0.995),
            run=RunConfig(out=Path("runs/tiny-harmony-vae"), save_every=250, sample_every=250),
            latent_noise=0.5,
        ),
    ),
}


class HarmonyVAETask(Task):
    """Decode the target's latents (or a UNet's) under the condition."""

    checkpoint_name = "harmony_vae.safetensors"

    def __init__(self, vae: HarmonyVAE, config: HarmonyVAETraining, examples: dict[str, torch.Tensor], unet=None):
        super().__init__()
        vae.set_trainable(config.trainable)
        self.vae, self.config = vae, config
        # a tuple hides the frozen UNet from this module's parameters
        self._unet = (unet,)
        for name in ("composite", "mask", "real"):
            self.register_buffer(f"example_{name}", examples[name], persistent=False)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        condition_image, target = condition_and_target(batch, self.config.direction)
        with torch.no_grad():
            latent = self._latents(condition_image, target, batch["mask"], batch["seed"].cpu())
        condition = self.vae.encode_condition(condition_image, batch["mask"])
        decoded = self.vae.decode(latent, condition).sample
        return reconstruction_loss(decoded, target, batch["mask"], kind=self.config.loss, foreground_weight=self.config.foreground_weight)

    def _latents(self, condition_image, target, mask, seeds) -> torch.Tensor:
        latent = self.vae.encode(target).latent_dist.mode()
        uniform = sample_uniform(seeds, 2, stream=1).to(latent.device)
        if self.config.latent_noise:
            noise = sample_noise(seeds, tuple(latent.shape[1:])).to(latent)
            amount = uniform[:, :1, None, None] * self.config.latent_noise / self.vae.config.scaling_factor
            latent = latent + amount * noise
        if self._unet[0] is not None:
            chosen = uniform[:, 1] < self.config.unet_share
            if chosen.any():
                latent[chosen] = self._sampled(condition_image[chosen], mask[chosen], seeds[chosen.cpu()]).to(latent)
        return latent

    def _sampled(self, condition_image, mask, seeds) -> torch.Tensor:
        scale = self.vae.config.scaling_factor
        condition_latent = self.vae.encode(condition_image).latent_dist.mode() * scale
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        unet = self._unet[0].to(condition_image.device)
        return sample_latents(unet, condition_latent, mask_to_latent(mask, condition_latent.shape[2:]), generator=generators) / scale

    def sheet(self) -> torch.Tensor:
        """Rows: composite, mask, plain decode, conditional decode, real image."""
        from torchvision.utils import make_grid

        composite, mask, real = self.example_composite, self.example_mask, self.example_real
        condition_image, target = condition_and_target({"composite": composite, "real": real}, self.config.direction)
        latent = self.vae.encode(target).latent_dist.mode()
        conditional = self.vae.decode(latent, self.vae.encode_condition(condition_image, mask)).sample
        rows = [composite, mask.expand_as(real) * 2 - 1, self.vae.decode(latent).sample, conditional, real]
        return make_grid(torch.cat(rows), nrow=len(real))

    def save(self, path: Path, training: dict[str, Any]) -> None:
        save_harmony_vae(self.vae, path, direction=self.config.direction, training=training, dtype=torch.float32)


def load_start(path: Path | None) -> HarmonyVAE:
    """The Harmony-VAE to train: one to train further, or a fresh one over a plain VAE. Raises: ValueError for None or others."""
    if path is None:
        raise ValueError("init must be a VAE to begin from, got None. Pass --init FOLDER_OR_FILE.")
    vae = load_vae(path)
    return vae if isinstance(vae, HarmonyVAE) else HarmonyVAE.from_autoencoder_kl(vae)


def example_batch(dataset: Dataset, count: int) -> dict[str, torch.Tensor]:
    """The first `count` samples of the stream, stacked, for sample sheets."""
    samples = [dataset[counter] for counter in range(count)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in ("composite", "mask", "real")}


def main(config: HarmonyVAETraining) -> dict[str, Any]:
    """Train; returns checkpoint, steps and loss."""
    check(config, {"foreground_weight": "[0, 1e6]", "latent_noise": "[0, 10]", "unet_share": "[0, 1]"})
    vae = load_start(config.init)
    unet = load_unet(config.unet) if config.unet else None
    dataset = HarmonizationDataset(config.data, config.run.seed)
    prepare(config)
    if config.run.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    task = HarmonyVAETask(vae.train(), config, example_batch(dataset, config.run.samples), unet)
    summary = {"command": "train-vae", "config": as_dict(config)}
    return fit(task, dataset, optim=config.optim, run=config.run, workers=config.data.workers, summary=summary)
