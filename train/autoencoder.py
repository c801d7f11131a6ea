"""Train a plain AutoencoderKL from scratch: the tiny family's base, and any family's where no VAE fits.

    diffharmony train-autoencoder tiny --data.roots data/tiny --run.out runs/tiny-autoencoder
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from diffusers import AutoencoderKL
from einops import rearrange

from ..common.checkpoint import read_checkpoint
from ..common.processes import on_main
from ..dataset.pairs import Pair
from ..harmony_vae import HarmonyVAE, load_vae
from ..harmony_vae.checkpoint import save_autoencoder
from .checks import check
from .config import DataConfig, OptimConfig, RunConfig, TrainingConfig, as_dict
from .data.bad_images import without_bad_images
from .data.batches import make_loader
from .data.dataset import HarmonizationDataset
from .dry_run import dry_run
from .loop import Task, fit, sample_noise
from .pretrained import load_pretrained_vae
from .run.resume import take
from .validation import psnr, validation_of

SCALING_FACTOR = 0.18215  # Stable Diffusion's; the latents are brought to it, so that hosts need no other
WHITENED_OVER = 256  # images


@dataclass(frozen=True)
class AutoencoderTraining(TrainingConfig):
    """A plain VAE from scratch, squared error and a small KL term."""

    data: DataConfig = field(default_factory=lambda: DataConfig(size=96, min_crop=0.3))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=1e-3, schedule="cosine", batch_size=8, steps=2000))
    run: RunConfig = field(default_factory=lambda: RunConfig(out=Path("runs/autoencoder")))
    block_out_channels: tuple[int, ...] = (32, 32, 64, 64)
    """Width per level: the first (a multiple of 32) times whole numbers, since hosts describe them so."""
    layers_per_block: int = 1
    norm_num_groups: int = 8
    """Groups of each normalisation. As many groups as channels would take every image's overall colour away."""
    init: str | None = None
    """A plain VAE to train further (folder, file or Hub id, as train-vae's); its own shape takes the place of the fields above."""
    colour_weight: Annotated[float, "[0, 1e6]"] = 0.0
    """Weight of colour: of what cannot be read of the 8 x 8 means off the latent. Four channels code luminance detail before
    the second chroma axis, as the plain squared error asks; harmonization needs all colours in the latent, and gets its
    detail from E_c. With it, training begins by amplifying the faint colour axes in E's first convolution."""
    kl_weight: Annotated[float, "[0, 1e6]"] = 1e-5
    latent_noise: Annotated[float, "[0, 10]"] = 0.05
    """Noise on the latent while training, in units of its standard deviation, so that decoding bears a UNet's errors."""

    ignored_with: ClassVar[dict[str, str]] = {
        **TrainingConfig.ignored_with, **{name: "init" for name in ("block_out_channels", "layers_per_block", "norm_num_groups")},
    }  # fmt: skip


PRESETS = {"tiny": ("the tiny family's base, made for two CPU cores", AutoencoderTraining())}


class AutoencoderTask(Task):
    """Reconstruct composites and real images alike."""

    checkpoint_name = "vae.safetensors"

    def __init__(self, vae: AutoencoderKL, config: AutoencoderTraining, examples: torch.Tensor):
        super().__init__()
        self.vae, self.config = vae, config
        self.register_buffer("examples", examples, persistent=False)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        odd = (batch["seed"] % 2 == 1)[:, None, None, None].to(batch["real"].device)
        image = torch.where(odd, batch["composite"], batch["real"])
        posterior = self.vae.encode(image).latent_dist
        latent = posterior.mode()
        noise = sample_noise(batch["seed"].cpu(), tuple(latent.shape[1:])).to(latent.device)
        spread = latent.detach().std(dim=(0, 2, 3), keepdim=True)
        decoded = self.vae.decode(latent + self.config.latent_noise * spread * noise).sample
        loss = torch.nn.functional.mse_loss(decoded, image)
        if self.config.colour_weight:
            loss = loss + self.config.colour_weight * unread_share(latent, torch.nn.functional.avg_pool2d(image, 8))
        return loss + self.config.kl_weight * posterior.kl().mean() / image[0].numel()

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """`psnr` of the real images' reconstruction."""
        return {"psnr": psnr(self.vae.decode(self.vae.encode(batch["real"]).latent_dist.mode()).sample, batch["real"])}

    def sheet(self) -> torch.Tensor:
        from torchvision.utils import make_grid

        decoded = self.vae.decode(self.vae.encode(self.examples).latent_dist.mode()).sample
        return make_grid(torch.cat([self.examples, decoded]), nrow=len(self.examples))

    def save(self, path: Path, training: dict[str, Any]) -> None:
        save_autoencoder(self.vae, path, training=training, dtype=torch.float32)


def unread_share(latent: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Share, 0..1, of the variance of `values` [B,V,h,w] that no linear map reads off `latent` [B,C,h,w], pixel by pixel over
    the batch; the mean over the principal axes of `values`, so that a faint axis counts as much as a strong one.
    Differentiable in the latent."""
    rows = _standard(latent)
    wanted = _standard(values)
    eigenvalues, axes = torch.linalg.eigh(wanted.T @ wanted / len(wanted))
    wanted = wanted @ axes / eigenvalues.clamp(min=1e-6).sqrt()
    ridge = 1e-3 * torch.eye(rows.shape[1], device=rows.device)
    solution = torch.linalg.solve(rows.T @ rows / len(rows) + ridge, rows.T @ wanted / len(rows))
    return (wanted - rows @ solution).square().mean()


def _standard(values: torch.Tensor) -> torch.Tensor:
    rows = rearrange(values, "b c h w -> (b h w) c")
    rows = rows - rows.mean(0)
    return rows / rows.detach().std(0).clamp(min=1e-6)


@torch.no_grad()
def amplify_faint_colours(vae: AutoencoderKL, images: torch.Tensor, limit: float = 6.0) -> None:
    """Let E's first convolution see every principal colour axis of `images` [B,3,H,W] as strong as the strongest, or `limit`
    times as strong as it is. Faint axes are learned too slowly otherwise."""
    pixels = rearrange(torch.nn.functional.avg_pool2d(images, 8), "b c h w -> (b h w) c")
    eigenvalues, axes = torch.linalg.eigh(torch.cov(pixels.T))
    gains = (eigenvalues[-1] / eigenvalues.clamp(min=1e-8)).sqrt().clamp(max=limit)
    weight = vae.encoder.conv_in.weight
    weight.copy_(torch.einsum("ocyx,cd->odyx", weight, axes @ torch.diag(gains) @ axes.T))


@torch.no_grad()
def whiten_latents(vae: AutoencoderKL, images) -> None:
    """Fold a linear map into quant_conv and post_quant_conv, so that 0.18215 * latent has zero mean, unit variance and no
    correlation between channels over `images` (an iterable of [B,3,H,W] in [-1,1]); decoding is unchanged.

    The posterior's log-variance becomes the constant that suits the new scale, since only its mode is used here.
    """
    moments = [rearrange(vae.encode(batch).latent_dist.mode(), "b c h w -> c (b h w)") for batch in images]
    values = torch.cat(moments, dim=1).double()
    mean = values.mean(dim=1)
    covariance = torch.cov(values)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    whitening = eigenvectors @ torch.diag(eigenvalues.clamp(min=1e-12).rsqrt()) @ eigenvectors.T / SCALING_FACTOR
    channels = vae.config.latent_channels
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:channels, :, 0, 0].double(), quant.bias[:channels].double()
    quant.weight[:channels] = (whitening @ weight)[:, :, None, None].float()
    quant.bias[:channels] = (whitening @ (bias - mean)).float()
    quant.weight[channels:] = 0
    quant.bias[channels:] = -6.0
    inverse = torch.linalg.inv(whitening)
    post_weight = post.weight[:, :, 0, 0].double()
    post.bias += (post_weight @ mean).float()
    post.weight.copy_((post_weight @ inverse)[:, :, None, None])


def _start(config: AutoencoderTraining) -> AutoencoderKL:
    if config.init is not None:
        vae = load_pretrained_vae(config.init).train()
        if isinstance(vae, HarmonyVAE):
            raise ValueError(f"init must be a plain VAE, got a Harmony-VAE in {config.init}. Pass the VAE that it was made from.")
        return vae
    torch.manual_seed(config.run.seed)
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        block_out_channels=config.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        latent_channels=4,
        sample_size=256,
        scaling_factor=SCALING_FACTOR,
    )


def main(config: AutoencoderTraining) -> dict[str, Any]:
    """Train, then whiten the latents of the averaged weights; returns checkpoint, steps, loss and the bad images that were left
    out, or after a dry run the plan."""
    check(config)
    vae = _start(config)
    dataset = without_bad_images(HarmonizationDataset(config.data, config.run.seed, batch_size=config.optim.batch_size), config)
    validation = validation_of(config)
    if config.colour_weight:
        amplify_faint_colours(vae, dataset.examples(64)["real"])
    task = AutoencoderTask(vae, config, dataset.examples(config.run.samples)["real"])
    if config.dry_run:
        return dry_run(task, dataset, config, validation)
    take(config)
    summary = {"command": "train-autoencoder", "config": as_dict(config)}
    result = fit(
        task, dataset, optim=config.optim, run=config.run, workers=config.data.workers, summary=summary, validation=validation,
        bad_images=dataset.bad_images,
    )  # fmt: skip
    training = {**summary, "steps": result["steps"], "whitened": True}
    on_main(lambda: _finish(Path(result["checkpoint"]), config, dataset.pairs, training))
    return result


def _finish(path: Path, config: AutoencoderTraining, pairs: Collection[Pair], training: dict[str, Any]) -> None:
    """Whiten the latents of a trained checkpoint, unless a run that is asked for again has done so."""
    if (read_checkpoint(path).training or {}).get("whitened"):
        return
    trained = load_vae(path)
    views, pairs = HarmonizationDataset(replace(config.data, size=256, sizes=(), min_crop=0.5), config.run.seed + 1), set(pairs)
    views = views.only(index for index, pair in enumerate(views.pairs) if pair in pairs)
    batches = [list(range(start, start + 8)) for start in range(0, WHITENED_OVER, 8)]
    whiten_latents(trained, (batch["composite"] for batch in make_loader(views, batches, config.data.workers)))
    save_autoencoder(trained, path, training=training, dtype=torch.float32)
