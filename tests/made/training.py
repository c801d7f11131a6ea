"""What the trainers' tests train on: a small data set, a small VAE, configs for runs of a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.tests.made import models
from diffharmony.tests.made.pairs import make_pairs  # noqa: F401
from diffharmony.train import unet, vae
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig
from diffharmony.train.unet import Architecture


def small_vae(seed=0):
    return models.vae((16, 16), seed=seed, groups=4)


def write_vae(path: Path) -> Path:
    save_autoencoder(small_vae(), path, dtype=torch.float32)
    return path


def vae_config(root, base, out, **changes):
    config = vae.HarmonyVAETraining(
        init=base, data=DataConfig(roots=(root,), size=32, min_crop=0.7, workers=0),
        optim=OptimConfig(learning_rate=2e-3, batch_size=2, steps=4, ema_decay=0.5),
        run=RunConfig(out=out, save_every=2, sample_every=4, samples=2),
    )  # fmt: skip
    return replace(config, **changes)


def vae_command(root, base, out, **options) -> list[str]:
    """A train-vae command of six short steps. options: field with __ for the dot -> value, in addition."""
    return _command("train-vae", root, out, {"init": base, **options})


def unet_command(root, base, out, **options) -> list[str]:
    """A train-unet command of six short steps of a small UNet; options as above."""
    small = ["--architecture.block-out-channels", "32", "64", "--architecture.attention-levels", "False", "True"]
    return _command("train-unet", root, out, {"vae": base, "cached_views": 0, **options}) + small


def refinement_command(root, harmony_vae, unet, out, **options) -> list[str]:
    """A train-refinement command of six short steps; options as above."""
    return _command("train-refinement", root, out, {"harmony_vae": harmony_vae, "unet": unet, **options})


def _command(name: str, root, out, options: dict) -> list[str]:
    fields = {
        "data.roots": root, "data.size": 32, "data.workers": 0, "optim.batch-size": 4, "optim.steps": 6,
        "run.save-every": 3, "run.sample-every": 1000, "run.samples": 1, "run.tracker": "none", "run.out": out,
        **{name.replace("__", ".").replace("_", "-"): value for name, value in options.items()},
    }  # fmt: skip
    return [name, "tiny", "--json", *(str(part) for name, value in fields.items() for part in (f"--{name}", value))]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a finished run of train-vae: averaged and last weights."""
    return {
        f"{place}/{name}": tensor
        for place in (".", "last")
        for name, tensor in load_file(run / place / "harmony_vae.safetensors").items()
    }


def unet_config(root, base, out, **changes):
    config = unet.UNetTraining(
        vae=base, data=DataConfig(roots=(root,), size=32, workers=0),
        optim=OptimConfig(learning_rate=2e-3, batch_size=2, steps=4, ema_decay=0.5),
        run=RunConfig(out=out, save_every=2, sample_every=4, samples=2),
        architecture=Architecture(block_out_channels=(32, 64), attention_levels=(False, True)), prediction_type="v_prediction",
    )  # fmt: skip
    return replace(config, **changes)
