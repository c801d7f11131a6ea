"""Train the 9-channel UNet of either direction (SPEC §2, §4).

    diffharmony train-unet paper --init stable-diffusion-inpainting --vae stable-diffusion-inpainting \\
        --data.roots iHarmony4 --run.out runs/unet
    diffharmony train-unet paper --init v1-5-pruned-emaonly.safetensors --widen-input --vae v1-5-pruned-emaonly.safetensors \\
        --data.roots iHarmony4 --run.out runs/unet
    diffharmony train-unet tiny --vae runs/autoencoder/vae.safetensors --data.roots data/tiny --run.out runs/tiny-unet
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from ..common.direction import Direction, condition_and_target
from ..common.masks import mask_to_latent
from ..common.processes import processes
from ..diffusion.sampler import SETTINGS, model_input, sample_generators, sample_latents
from ..diffusion.unet import attach, save_unet
from .checks import check, check_one_size
from .colour import ColourReadout, clean_colour_loss, readout_of
from .config import DataConfig, OptimConfig, RunConfig, TrainingConfig, as_dict
from .data.bad_images import without_bad_images
from .data.dataset import HarmonizationDataset
from .data.latents import cache_latents
from .dry_run import dry_run
from .loop import Task, fit, sample_noise, sample_uniform
from .losses import diffusion_loss
from .pretrained import load_pretrained_unet, load_pretrained_vae
from .run.resume import take
from .vae import example_batch
from .validation import psnr, validation_of

SAMPLED_TIMESTEPS = (999, 749, 500, 250, 0)  # SPEC §2's five, as hosts round them
FIRST_TIMESTEP = SAMPLED_TIMESTEPS[0]
READOUT_IMAGES = 64  # pairs that the colours of latents are learned from


@dataclass(frozen=True)
class Architecture:
    """A UNet made from scratch, used when `init` is not given, of the kind that ComfyUI can run: 8 heads, 32 groups."""

    block_out_channels: tuple[int, ...] = (64, 64, 128)
    """Width per level: multiples of 32 and of the first. At 32 channels, 32 groups would take an image's overall colour away."""
    attention_levels: tuple[bool, ...] = (False, False, True)
    layers_per_block: int = 1
    cross_attention_dim: int = 32


@dataclass(frozen=True)
class UNetTraining(TrainingConfig):
    """Denoise the target's latent under [noisy latent, mask, condition latent]: SPEC eq. 1."""

    vae: str | None = None
    """The VAE whose encoder makes the latents, plain or Harmony-VAE: a folder, file or Hub id, as train-vae's `init`."""
    init: str | None = None
    """A 9-channel UNet to begin from: a diffusers folder (of the UNet or of a pipeline), a file of ours, a Stable Diffusion 1.x
    checkpoint in the original layout (.safetensors, .ckpt), or a model on the Hub (owner/name, owner/name:folder,
    owner/name:file.safetensors). Without it one is made from `architecture`."""
    widen_input: bool = False
    """Take a 4-channel (text-to-image) UNet for `init`, and give it the 9 input channels [noisy latent, mask, condition latent],
    the new ones with zero weights."""
    empty_prompt: Path | None = None
    """File that carries `empty_prompt_embeds` (`diffharmony convert` writes it), where `init` has none, and no text encoder."""
    architecture: Architecture = field(default_factory=Architecture)
    direction: Direction = "harmonize"
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the UNet predicts. None: as `init` does, and epsilon (SPEC eq. 1) from scratch."""
    foreground_weighted: bool = True
    """Weight the loss to the foreground, as the authors' code does; off for the plain mean of eq. 1."""
    background_weight: Annotated[float, "[0, 1]"] = 0.0
    """Weight of pixels outside the mask when weighted to the foreground."""
    sampled_timesteps: Annotated[float, "[0, 1]"] = 0.0
    """Share of training timesteps drawn from the five that sampling visits; the rest is uniform."""
    own_predictions: Annotated[float, "[0, 1]"] = 0.0
    """Share of the samples below t = 999 whose noisy latent is built on the UNet's own prediction at 999 in place of the target's
    latent, as sampling builds it; their loss is that of the predicted latent. Keeps the few steps from taking their own errors
    for evidence."""
    first_timesteps: Annotated[float, "[0, 1]"] = 0.0
    """Share of training timesteps that are 999, where sampling begins and the prediction is a mean over all that the target may be."""
    colour_loss: Annotated[float, "[0, 1e6]"] = 0.0
    """Weight of the error that the change of light leaves which the predicted clean latent stands for (`colour_map_loss`): of the samples at t = 999 and of those on the UNet's own predictions."""
    cached_views: Annotated[int, "[0, 1000]"] = 0
    """Cuts of each pair whose latents are computed once and kept; 0 encodes every image anew."""

    ignored_without: ClassVar[dict[str, str]] = {
        **TrainingConfig.ignored_without, "background_weight": "foreground_weighted", "widen_input": "init", "empty_prompt": "init",
    }  # fmt: skip
    ignored_with: ClassVar[dict[str, str]] = {**TrainingConfig.ignored_with, "architecture": "init"}


PRESETS: dict[str, tuple[str, UNetTraining]] = {
    "paper": (
        "SPEC §2: from SD 1.5 inpainting, 512 px, epsilon, foreground-weighted",
        UNetTraining(
            data=DataConfig(size=512, workers=8),
            optim=OptimConfig(
                learning_rate=1e-5, schedule="constant_with_warmup", warmup=0.02, weight_decay=0.0, betas=(0.9, 0.999),
                ema_decay=0.999, epochs=10, batch_size=32,
            ),
            run=RunConfig(out=Path("runs/harmonization-unet"), mixed_precision="fp16"),
            direction="harmonize",
            foreground_weighted=True,
            background_weight=0.0,
        ),
    ),
    "tiny": (
        "the tiny family: from scratch, v-prediction, half the timesteps from the five that are sampled, cached latents",
        UNetTraining(
            data=DataConfig(size=128, min_crop=0.5, workers=0),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", batch_size=32, steps=6000, ema_decay=0.998),
            run=RunConfig(out=Path("runs/tiny-unet"), save_every=500, sample_every=500),
            prediction_type="v_prediction",
            background_weight=0.1,
            sampled_timesteps=0.5,
            cached_views=1,
        ),
    ),
}


class UNetTask(Task):
    """Predict noise (or velocity) at random timesteps."""

    checkpoint_name = "unet.safetensors"

    def __init__(
        self, unet: UNet2DConditionModel, vae, config: UNetTraining, examples: dict[str, torch.Tensor],
        readout: ColourReadout | None = None,
    ):  # fmt: skip
        super().__init__()
        self.unet, self.config, self._readout = unet, config, readout
        self._vae = (vae,)  # frozen; hidden from this module's parameters
        self._scheduler = DDPMScheduler(
            **{name: value for name, value in SETTINGS.items() if name != "timestep_spacing"}, prediction_type=unet.prediction_type
        )
        for name, tensor in examples.items():
            self.register_buffer(f"example_{name}", tensor, persistent=False)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        condition, target, mask = self._latents(batch)
        seeds = batch["seed"].cpu()
        timesteps = draw_timesteps(seeds, self.config.sampled_timesteps, self.config.first_timesteps).to(target.device)
        noise = sample_noise(seeds, tuple(target.shape[1:])).to(target.device)
        start = target
        own = (sample_uniform(seeds, 1, stream=3)[:, 0].to(target.device) < self.config.own_predictions) & (timesteps < FIRST_TIMESTEP)
        if own.any():
            start = target.clone()
            start[own] = self._first_prediction(condition[own], mask[own], seeds[own.cpu()])
        noisy = self._scheduler.add_noise(start, noise, timesteps)
        prediction = self._predict(noisy, mask, condition, timesteps)
        velocity = self.unet.prediction_type == "v_prediction"
        error = prediction - (self._scheduler.get_velocity(target, noise, timesteps) if velocity else noise)
        clean = self._clean(noisy, prediction, timesteps)
        if own.any():
            error = torch.where(own[:, None, None, None], clean - target, error)
        loss = diffusion_loss(
            error, mask, foreground_weighted=self.config.foreground_weighted, background_weight=self.config.background_weight
        )
        if self._readout is None:
            return loss
        # below 999, a latent built on the target tells the answer
        judged = (own | (timesteps == FIRST_TIMESTEP)) & (mask.sum(dim=(1, 2, 3)) > 0)
        left = clean_colour_loss(self._readout, clean, target, condition, mask)
        return loss + self.config.colour_loss * torch.where(judged, left, 0.0).mean()

    def _predict(self, noisy, mask, condition, timesteps) -> torch.Tensor:
        prompt = self.unet.empty_prompt_embeds.to(noisy.device).expand(len(noisy), -1, -1)
        return self.unet(model_input(noisy, mask, condition), timesteps, encoder_hidden_states=prompt).sample

    def _clean(self, noisy: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The clean latent that a prediction stands for."""
        signal = self._scheduler.alphas_cumprod.to(noisy.device)[timesteps][:, None, None, None]
        if self.unet.prediction_type == "v_prediction":
            return signal.sqrt() * noisy - (1 - signal).sqrt() * prediction
        return (noisy - (1 - signal).sqrt() * prediction) / signal.sqrt()

    @torch.no_grad()
    def _first_prediction(self, condition: torch.Tensor, mask: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """What sampling holds after its first step: the clean latent predicted from pure noise."""
        noise = sample_noise(seeds, tuple(condition.shape[1:]), stream=4).to(condition.device)
        timesteps = torch.full((len(condition),), FIRST_TIMESTEP, device=condition.device)
        return self._clean(noise, self._predict(noise, mask, condition, timesteps), timesteps)

    @torch.no_grad()
    def _latents(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if "target_latent" in batch:
            return batch["condition_latent"], batch["target_latent"], batch["mask_latent"]
        images = condition_and_target(batch, self.config.direction)
        condition, target = (self._encode(image) for image in images)
        return condition, target, mask_to_latent(batch["mask"], target.shape[2:])

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        vae = self._vae[0].to(image.device)
        return vae.encode(image).latent_dist.mode() * vae.config.scaling_factor

    def frozen(self) -> list[torch.nn.Module]:
        return list(self._vae)

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """`psnr` of what the UNet samples, plainly decoded; its noise is drawn from the samples' seeds."""
        condition_image, target = condition_and_target(batch, self.config.direction)
        return {"psnr": psnr(self._made(condition_image, batch["mask"], batch["seed"].tolist()), target)}

    def _made(self, condition_image: torch.Tensor, mask: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        condition = self._encode(condition_image)
        latent = sample_latents(
            self.unet, condition, mask_to_latent(mask, condition.shape[2:]), generator=sample_generators(seeds, len(mask))
        )
        return self._vae[0].decode(latent / self._vae[0].config.scaling_factor).sample

    def sheet(self) -> torch.Tensor:
        """Rows: composite, mask, what the UNet makes (plain decode), real image."""
        from torchvision.utils import make_grid

        composite, mask, real = self.example_composite, self.example_mask, self.example_real
        condition_image, _ = condition_and_target({"composite": composite, "real": real}, self.config.direction)
        decoded = self._made(condition_image, mask, list(range(len(real))))
        return make_grid(torch.cat([composite, mask.expand_as(real) * 2 - 1, decoded, real]), nrow=len(real))

    def save(self, path: Path, training: dict[str, Any]) -> None:
        save_unet(
            self.unet, path, direction=self.config.direction, prediction_type=self.unet.prediction_type, training=training,
            dtype=torch.float32, sizes=sorted(set(self.config.data.sizes or (self.config.data.size,)), reverse=True),
        )  # fmt: skip


def draw_timesteps(seeds: torch.Tensor, sampled_share: float, first_share: float = 0.0) -> torch.Tensor:
    """One timestep per sample, [B] int64 in 0..999, from its own seed: FIRST_TIMESTEP with probability `first_share`, else of
    SAMPLED_TIMESTEPS with probability `sampled_share`."""
    uniform = sample_uniform(seeds, 2, stream=2)
    visited = torch.tensor(SAMPLED_TIMESTEPS)[(uniform[:, 1] * len(SAMPLED_TIMESTEPS)).long()]
    timesteps = torch.where(uniform[:, 0] < sampled_share, visited, (uniform[:, 1] * 1000).long())
    if not first_share:
        return timesteps
    return torch.where(sample_uniform(seeds, 1, stream=5)[:, 0] < first_share, FIRST_TIMESTEP, timesteps)


def make_unet(architecture: Architecture, prediction_type: str, direction: str, seed: int) -> UNet2DConditionModel:
    """A UNet with random weights. Its "empty prompt" is fixed noise: no text encoder stands behind it."""
    widths, attends = architecture.block_out_channels, architecture.attention_levels
    if any(width % 32 or width % widths[0] for width in widths):
        raise ValueError(f"architecture.block_out_channels must be multiples of 32 and of the first, got {widths}. ComfyUI runs no other.")
    if len(attends) != len(widths):
        raise ValueError(f"architecture.attention_levels must be one per level ({len(widths)}), got {len(attends)}. Name as many.")
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        in_channels=9,
        out_channels=4,
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=architecture.layers_per_block,
        down_block_types=tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(attends)),
        cross_attention_dim=architecture.cross_attention_dim,
        attention_head_dim=8,
    )
    embeds = torch.randn(1, 77, architecture.cross_attention_dim, generator=torch.Generator().manual_seed(seed))
    return attach(unet, embeds, direction, prediction_type)


def load_start(config: UNetTraining) -> UNet2DConditionModel:
    """The UNet to train, with its empty prompt: `init`'s, or one made from scratch. Raises: ValueError where `init` does not fit
    (train/pretrained.py)."""
    if config.init is not None:
        return load_pretrained_unet(
            config.init, direction=config.direction, prediction_type=config.prediction_type,
            empty_prompt=config.empty_prompt, widen=config.widen_input,
        )  # fmt: skip
    return make_unet(config.architecture, config.prediction_type or "epsilon", config.direction, config.run.seed)


def main(config: UNetTraining) -> dict[str, Any]:
    """Train; returns checkpoint, steps, loss and the bad images that were left out, or after a dry run the plan."""
    check(config)
    if config.cached_views:
        check_one_size(config.data, f"latents are cached (cached_views {config.cached_views}; 0 caches none)")
    vae = load_pretrained_vae(config.vae, "vae").requires_grad_(False)
    unet = load_start(config).requires_grad_(True).train()
    images = without_bad_images(HarmonizationDataset(config.data, config.run.seed, batch_size=config.optim.batch_size), config)
    dataset = images
    validation = validation_of(config)
    if config.run.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    readout = None
    if config.colour_loss:
        readout = readout_of(vae, [images.examples(READOUT_IMAGES)])
    task = UNetTask(unet, vae, config, example_batch(images, config.run.samples), readout)
    if config.dry_run:
        return dry_run(task, images, config, validation, views=config.cached_views or 1)
    take(config)
    if config.cached_views:
        # the first process encodes them, the others read its file
        with processes().main_process_first():
            dataset = cache_latents(
                vae, images, views=config.cached_views, direction=config.direction, folder=config.run.out, seed=config.run.seed,
                device=processes().device,
            )  # fmt: skip
    summary = {"command": "train-unet", "config": as_dict(config)}
    return fit(
        task, dataset, optim=config.optim, run=config.run, workers=0 if config.cached_views else config.data.workers, summary=summary,
        validation=validation, bad_images=images.bad_images,
    )  # fmt: skip
