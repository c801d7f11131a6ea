"""Train the Harmony-VAE: E_c, D and the zero convolutions, E frozen (SPEC §3).

    diffharmony train-vae paper --init stable-diffusion-inpainting/vae --data.roots iHarmony4 --run.out runs/harmony-vae
    diffharmony train-vae paper --init v1-5-pruned-emaonly.safetensors --data.roots iHarmony4 --run.out runs/harmony-vae
    diffharmony train-vae tiny --init runs/autoencoder/vae.safetensors --data.roots data/tiny --run.out runs/tiny-harmony-vae
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from ..common.direction import Direction, condition_and_target
from ..common.masks import mask_to_latent
from ..diffusion.sampler import sample_latents
from ..harmony_vae import HarmonyVAE, save_harmony_vae
from .checks import check
from .config import DataConfig, OptimConfig, RunConfig, TrainingConfig, as_dict
from .data.bad_images import without_bad_images
from .data.dataset import HarmonizationDataset
from .dry_run import dry_run
from .loop import Task, fit, sample_noise, sample_uniform
from .losses import reconstruction_loss
from .pretrained import load_pretrained_harmony_vae, sampling_unet
from .run.resume import take
from .validation import psnr, validation_of


@dataclass(frozen=True)
class HarmonyVAETraining(TrainingConfig):
    """Reconstruct the target from its own latents, conditioned on (condition image, mask): SPEC eq. 2."""

    init: str | None = None
    """A plain VAE to begin from, or a Harmony-VAE to train further: a diffusers folder (of the VAE or of a pipeline), a file of
    ours, a Stable Diffusion 1.x checkpoint in the original layout (.safetensors, .ckpt), or a model on the Hub (owner/name,
    owner/name:folder, owner/name:file.safetensors)."""
    direction: Direction = "harmonize"
    trainable: Literal["encoder_and_decoder", "conditional_encoder"] = "encoder_and_decoder"
    """E_c and D, or E_c only; zero convolutions always. The paper's ablation (Table 5 at 512 px, zero initialisation: SPEC §9)
    has 40.11 dB for E_c and D, 39.86 dB for E_c only."""
    initialization: Literal["zero", "random"] = "zero"
    """How the zero convolutions and the mask's convolution start. random is the same ablation's other half (SPEC §9: 31.49 dB for
    E_c and D, NaN for E_c only); the conditional decode then does not begin as the plain one."""
    loss: Literal["squared", "l1"] = "squared"
    """squared: the paper. l1: the authors' code."""
    foreground_weight: Annotated[float, "[0, 1e6]"] = 0.0
    """Weight of the foreground's own error, besides the whole image's."""
    latent_noise: Annotated[float, "[0, 10]"] = 0.0
    """Largest noise on the latent, in units of its standard deviation; each sample draws its own amount from 0 up to it."""
    unet: str | None = None
    """UNet of the same direction whose own latents z0' take the place of E(target) in some samples: a folder, file or Hub id."""
    unet_share: Annotated[float, "[0, 1]"] = 0.5
    """Share of the samples for which `unet` is used, when it is given."""

    ignored_without: ClassVar[dict[str, str]] = {**TrainingConfig.ignored_without, "unet_share": "unet"}


PRESETS: dict[str, tuple[str, HarmonyVAETraining]] = {
    "paper": (
        "SPEC §3: all iHarmony4, 256 px, AdamW, lr 1e-4 after 2 % warm-up, 10 epochs, EMA 0.999, squared error",
        HarmonyVAETraining(
            data=DataConfig(size=256, workers=8),
            optim=OptimConfig(
                learning_rate=1e-4, schedule="constant_with_warmup", warmup=0.02, weight_decay=0.0, betas=(0.9, 0.999),
                ema_decay=0.999, epochs=10, batch_size=32,
            ),
            run=RunConfig(out=Path("runs/harmony-vae")),
            direction="harmonize",
            trainable="encoder_and_decoder",
            loss="squared",
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

    def frozen(self) -> list[torch.nn.Module]:
        return [unet for unet in self._unet if unet is not None]

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """`psnr` of the conditional decode of the target's own latents."""
        condition_image, target = condition_and_target(batch, self.config.direction)
        latent = self.vae.encode(target).latent_dist.mode()
        return {"psnr": psnr(self.vae.decode(latent, self.vae.encode_condition(condition_image, batch["mask"])).sample, target)}

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


def example_batch(dataset: HarmonizationDataset, count: int) -> dict[str, torch.Tensor]:
    """The first `count` samples of the stream, for sample sheets."""
    examples = dataset.examples(count)
    return {name: examples[name] for name in ("composite", "mask", "real")}


def main(config: HarmonyVAETraining) -> dict[str, Any]:
    """Train; returns checkpoint, steps, loss and the bad images that were left out, or after a dry run the plan."""
    check(config)
    vae = load_pretrained_harmony_vae(config.init, config.initialization, config.run.seed)
    unet = sampling_unet(config.unet, config.direction) if config.unet else None
    dataset = without_bad_images(HarmonizationDataset(config.data, config.run.seed, batch_size=config.optim.batch_size), config)
    validation = validation_of(config)
    if config.run.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    task = HarmonyVAETask(vae.train(), config, example_batch(dataset, config.run.samples), unet)
    if config.dry_run:
        return dry_run(task, dataset, config, validation)
    take(config)
    summary = {"command": "train-vae", "config": as_dict(config)}
    return fit(
        task, dataset, optim=config.optim, run=config.run, workers=config.data.workers, summary=summary, validation=validation,
        bad_images=dataset.bad_images,
    )  # fmt: skip
