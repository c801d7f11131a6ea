"""The tiny family (assets/tiny): data, base VAE, UNet and Harmony-VAE of both directions, classifier, with our own trainers.

    python -m diffharmony.applications.tiny.make                    every stage, in order; each goes on from where it was killed
    python -m diffharmony.applications.tiny.make --stages unet      one of them
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from ...classifier.checkpoint import load_harmony_classifier, save_harmony_classifier
from ...common.assets import ROOT, TINY
from ...common.checkpoint import read_checkpoint
from ...dataset.layout import write_list
from ...diffusion.unet import attach, load_unet, save_unet
from ...harmony_vae import load_vae, save_harmony_vae
from ...harmony_vae.checkpoint import save_autoencoder
from ...train import autoencoder, classifier, unet, vae
from ...train.config import DataConfig, OptimConfig, RunConfig

logger = logging.getLogger("diffharmony")
UNET_STEPS = (5500, 2200, 6000)
REAL_STEPS = (6000, 3300, 13000, 6500, 6500)
REAL_CROPS, MORE_CROPS, LARGE_CROPS, LAST_CROPS = (1400, 1094), (2400, 3600), (700, 1350), 1800  # of the installed photographs, of those in `photos`
VALIDATION_SHARE = 0.1  # of either, by picture: calibration and settings are judged on them
HARMONY_VAE_STEPS = (1500, 700)
INVERSE_UNET_STEPS = 3000
INVERSE_WIDTHS = (64, 64, 64)  # the family must stay under 24 MB
STRONG_LIST, STRONG_FMSE = "IHD_strong.txt", 500.0
CLASSIFIER_STEPS = (2600, 2200)
INVERSE_HARMONY_VAE_STEPS = (500, 600)


@dataclass(frozen=True)
class TinyFamily:
    """Where the tiny family is made, and which stages to run."""

    work: Path = ROOT / ".cache" / "tiny"
    """Folder for the data, states and sample sheets; about 2 GB."""
    photos: Path | None = None
    """Folder of more photographs that the UNet is trained on in real light. None: the installed ones alone."""
    out: Path = TINY
    """Folder that the float16 checkpoints are written to."""
    stages: tuple[str, ...] = ()
    """Stages to run, in order; none: all."""
    threads: int = 1
    """Threads of one stage. Two one-thread stages side by side use two cores better than one stage with two."""


def make_data(family: TinyFamily) -> None:
    from ...synthetic.dataset import write_test_set, write_training_set

    for seed, folder in enumerate((family.work / "data", family.work / "data-more")):
        write_training_set(folder, photo_crops=4000, scenes=600, composites_per_crop=3, size=256, seed=seed, workers=2)
    for size in (128, 256, 512):
        write_test_set(family.work / f"test-{size}", size=size, seed=0)


def make_real_data(family: TinyFamily) -> None:
    """Photographs relit as light changes; then several times as many, each mask relit three times; then, for training at 256 px, photographs
    relit and installed pictures recoloured; and a tenth of the photographs as validation sets."""
    from ...synthetic.dataset import write_training_set
    from ...synthetic.own_photographs import is_held_out, own_photographs
    from ...synthetic.photographs import find_photographs
    from ...synthetic.real_test import write_real_test_set

    common = dict(scenes=0, composites_per_crop=4, size=128, light="mixed", workers=2)
    more = {**common, "composites_per_crop": 3, "changes_per_mask": 3, "size": 256}
    installed = find_photographs().train
    held = tuple(photograph for photograph in installed if is_held_out(photograph.name, VALIDATION_SHARE))
    trained = tuple(photograph for photograph in installed if photograph not in held)
    write_training_set(family.work / "real", photo_crops=REAL_CROPS[0], seed=10, photographs=trained, smallest_crop=0.5, **common)
    write_training_set(family.work / "real-more", photo_crops=MORE_CROPS[0], seed=32, photographs=trained, smallest_crop=0.5, **more)
    large = {**more, "light": "recolour"}
    write_training_set(family.work / "recoloured", photo_crops=LARGE_CROPS[0], seed=42, photographs=trained, smallest_crop=0.5, **large)
    write_real_test_set(family.work / "real-validation", held, composites=3, seed=5)
    if family.photos is not None:
        trained, held = (own_photographs(family.photos, held_out=VALIDATION_SHARE, test=test) for test in (False, True))
        write_training_set(
            family.work / "real-photos", photo_crops=REAL_CROPS[1], seed=20, photographs=trained, smallest_crop=0.6, **common
        )
        write_training_set(
            family.work / "real-photos-more", photo_crops=MORE_CROPS[1], seed=31, photographs=trained, smallest_crop=0.6, **more
        )
        write_training_set(
            family.work / "real-photos-large", photo_crops=LARGE_CROPS[1], seed=41, photographs=trained, smallest_crop=0.6, **more
        )
        write_training_set(
            family.work / "real-photos-last", photo_crops=LAST_CROPS, seed=51, photographs=trained, smallest_crop=0.6, **more
        )
        write_real_test_set(family.work / "real-photos-validation", held, composites=4, seed=6)


def train_autoencoder(family: TinyFamily) -> None:
    """Base VAE, on the photographs alone; then again with weight on colour."""
    root = family.work / "data"
    names = sorted(path.relative_to(root).as_posix() for path in (root / "Photos" / "composite_images").glob("*.jpg"))
    write_list(root / "IHD_photos.txt", names)
    first = autoencoder.AutoencoderTraining(
        data=replace(_data(family, size=96, min_crop=0.3), list_file="IHD_photos.txt"),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine", batch_size=8, steps=1800, ema_decay=0.995),
        run=RunConfig(out=family.work / "autoencoder-first", save_every=200, sample_every=200),
    )
    trained = autoencoder.main(first)
    colour = replace(
        first,
        init=Path(trained["checkpoint"]),
        colour_weight=0.3,
        optim=replace(first.optim, learning_rate=2e-3, steps=800),
        run=replace(first.run, out=family.work / "autoencoder"),
    )
    autoencoder.main(colour)


def train_unet(family: TinyFamily) -> None:
    """The UNet, at 128 px, where a step costs a quarter of one at 256 px (it serves both); then on its own predictions too, at last on
    twice the data."""
    preset = unet.PRESETS["tiny"][1]
    first = replace(
        preset,
        vae=family.work / "autoencoder" / "vae.safetensors",
        data=_data(family, size=128, min_crop=0.5),
        optim=replace(preset.optim, learning_rate=8e-4, steps=UNET_STEPS[0]),
        run=replace(preset.run, out=family.work / "unet-128"),
    )
    trained = unet.main(first)
    own = replace(
        first,
        init=Path(trained["checkpoint"]),
        own_predictions=0.7,
        optim=replace(first.optim, learning_rate=4e-4, steps=UNET_STEPS[1]),
        run=replace(first.run, out=family.work / "unet"),
    )
    trained = unet.main(own)
    more = replace(
        own,
        init=Path(trained["checkpoint"]),
        data=_data(family, size=128, min_crop=0.5, more=True),
        optim=replace(own.optim, learning_rate=6e-4, steps=UNET_STEPS[2]),
        run=replace(own.run, out=family.work / "unet-more", seed=1),
    )
    unet.main(more)


def train_real_unet(family: TinyFamily) -> None:
    """The UNet further, on photographs in real light: on the change of light that its predictions stand for, most of all on the first,
    which is a mean over all that the real image may be. Then on more photographs, and on several times as many composites, the learning
    rate falling to nothing each time; last at 256 px, at which it works."""
    preset = unet.PRESETS["tiny"][1]
    first = replace(
        preset,
        init=_made(family, "unet-more", "unet", "harmonization_unet"),
        vae=_made(family, "autoencoder", "vae", "vae"),
        own_predictions=1.0,
        first_timesteps=0.7,
        sampled_timesteps=0.9,
        colour_loss=1.0,
        data=DataConfig(roots=(family.work / "real",), size=128, flip=False, workers=0),
        optim=replace(
            preset.optim, learning_rate=5e-4, schedule="constant_with_warmup", batch_size=16, steps=REAL_STEPS[0]
        ),
        run=replace(preset.run, out=family.work / "unet-real-first", seed=3),
    )
    trained = unet.main(first)
    for out, steps, folders, weights, size, first_timesteps in (
        ("unet-real-second", REAL_STEPS[1], ("real-photos", "real"), (2.0, 1.0), 128, 0.7),
        ("unet-real-third", REAL_STEPS[2], ("real-photos-more", "real-more"), (1.5, 1.0), 128, 0.8),
        ("unet-real-fourth", REAL_STEPS[3], ("real-photos-large", "recoloured"), (2.0, 0.55), 256, 0.8),
        ("unet-real", REAL_STEPS[4], ("real-photos-large", "recoloured", "real-photos-last"), (1.0, 0.55, 1.6), 256, 0.8),
    ):
        if family.photos is None:
            folders, weights = tuple(folder for folder in folders if "photos" not in folder), ()
        further = replace(
            first,
            init=Path(trained["checkpoint"]),
            first_timesteps=first_timesteps,
            data=replace(first.data, roots=tuple(family.work / folder for folder in folders), weights=weights, size=size),
            optim=replace(first.optim, schedule="cosine", steps=steps, **({"learning_rate": 3e-4, "batch_size": 8} if size == 256 else {})),
            run=replace(first.run, out=family.work / out),
        )
        trained = unet.main(further)


def train_harmony_vae(family: TinyFamily) -> None:
    """The Harmony-VAE on E(real) with noise."""
    init = family.work / "autoencoder" / "vae.safetensors"
    _train_harmony_vae(family, "harmony-vae", learning_rate=1e-3, steps=HARMONY_VAE_STEPS[0], init=init)


def finish_harmony_vae(family: TinyFamily) -> None:
    """Then half on latents that the UNet makes, as in use."""
    init, maker = family.work / "harmony-vae" / "harmony_vae.safetensors", family.work / "unet-128" / "unet.safetensors"
    _train_harmony_vae(
        family, "harmony-vae-finished", learning_rate=3e-4, steps=HARMONY_VAE_STEPS[1], init=init, unet=maker, foreground_weight=1.0
    )


def train_inverse_unet(family: TinyFamily) -> None:
    """The inverse UNet, narrower than the harmonization UNet and begun from its weights, on the composites that were changed much.
    Not on its own predictions: they would teach it one answer where there are many."""
    preset, start = unet.PRESETS["tiny"][1], family.work / "inverse-start.safetensors"
    wide = load_unet(_made(family, "unet-more", "unet", "harmonization_unet"))
    save_unet(narrowed(wide, INVERSE_WIDTHS), start, direction="invert", dtype=torch.float32)
    root = family.work / "data"
    records = [json.loads(line) for line in (root / "composites.jsonl").read_text(encoding="utf-8").splitlines()]
    write_list(root / STRONG_LIST, (record["file_name"] for record in records if record["fmse"] >= STRONG_FMSE))
    unet.main(
        replace(
            preset,
            init=start,
            vae=_made(family, "autoencoder", "vae", "vae"),
            direction="invert",
            data=replace(_data(family, size=128, min_crop=0.5), list_file=STRONG_LIST),
            optim=replace(preset.optim, learning_rate=1e-3, steps=INVERSE_UNET_STEPS),
            run=replace(preset.run, out=family.work / "inverse-unet"),
        )
    )


def narrowed(wide: UNet2DConditionModel, widths: tuple[int, ...]) -> UNet2DConditionModel:
    """A UNet of other widths that begins with the leading part of each of `wide`'s tensors, and its empty prompt."""
    narrow = unet.make_unet(unet.Architecture(block_out_channels=widths), wide.prediction_type, wide.direction, seed=0)
    tensors = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        tensor.copy_(tensors[name][tuple(map(slice, tensor.shape))])
    return attach(narrow, wide.empty_prompt_embeds, wide.direction, wide.prediction_type)


def train_inverse_harmony_vae(family: TinyFamily) -> None:
    """The inverse Harmony-VAE, from the other one's weights, on E(composite) with noise."""
    init = _made(family, "harmony-vae-finished", "harmony_vae", "harmony_vae")
    _train_harmony_vae(
        family, "inverse-harmony-vae", learning_rate=6e-4, steps=INVERSE_HARMONY_VAE_STEPS[0], init=init, direction="invert"
    )


def finish_inverse_harmony_vae(family: TinyFamily) -> None:
    """Then half on latents that the inverse UNet makes."""
    init, maker = family.work / "inverse-harmony-vae" / "harmony_vae.safetensors", family.work / "inverse-unet" / "unet.safetensors"
    _train_harmony_vae(
        family, "inverse-harmony-vae-finished", learning_rate=3e-4, steps=INVERSE_HARMONY_VAE_STEPS[1], init=init, unet=maker,
        direction="invert",
    )  # fmt: skip


def train_classifier(family: TinyFamily) -> None:
    """The small harmony classifier, on what the other models are trained on; a tenth of the photographs is held out. Then further, on the
    same photographs in another order."""
    preset = classifier.PRESETS["tiny"][1]
    first = replace(
        preset,
        data=replace(preset.data, roots=(family.work / "data",)),
        optim=replace(preset.optim, steps=CLASSIFIER_STEPS[0]),
        run=replace(preset.run, out=family.work / "classifier"),
    )
    trained = classifier.main(first)
    more = replace(
        first,
        init=Path(trained["checkpoint"]),
        optim=replace(first.optim, steps=CLASSIFIER_STEPS[1]),
        run=replace(first.run, out=family.work / "classifier-more", seed=1),
    )
    classifier.main(more)


def export(family: TinyFamily) -> None:
    """Write the float16 checkpoints of the stages that were run here; the others stay as they are."""
    family.out.mkdir(parents=True, exist_ok=True)
    for name, (stage, checkpoint, load, save) in CHECKPOINTS.items():
        trained = family.work / stage / f"{checkpoint}.safetensors"
        if trained.is_file():
            save(load(trained), family.out / f"{name}.safetensors", training=_training(trained))


# file in assets/tiny -> the stage's folder, the checkpoint in it, and what loads and saves its kind
CHECKPOINTS: dict[str, tuple[str, str, Callable, Callable]] = {
    "vae": ("autoencoder", "vae", load_vae, save_autoencoder),
    "harmony_vae": ("harmony-vae-finished", "harmony_vae", load_vae, save_harmony_vae),
    "harmonization_unet": ("unet-real", "unet", load_unet, save_unet),
    "inverse_harmony_vae": ("inverse-harmony-vae-finished", "harmony_vae", load_vae, save_harmony_vae),
    "inverse_unet": ("inverse-unet", "unet", load_unet, save_unet),
    "harmony_classifier": ("classifier-more", "harmony_classifier", load_harmony_classifier, save_harmony_classifier),
}


def _made(family: TinyFamily, stage: str, checkpoint: str, name: str) -> Path:
    """A stage's checkpoint, or where it was not run here the committed one."""
    trained = family.work / stage / f"{checkpoint}.safetensors"
    return trained if trained.is_file() else family.out / f"{name}.safetensors"


def _train_harmony_vae(family: TinyFamily, stage: str, *, learning_rate: float, steps: int, **changes) -> None:
    """One run of train-vae into the stage's folder: the preset with `changes`."""
    preset = vae.PRESETS["tiny"][1]
    vae.main(
        replace(
            preset,
            data=_data(family, size=128, min_crop=0.5),
            optim=replace(preset.optim, learning_rate=learning_rate, steps=steps),
            run=replace(preset.run, out=family.work / stage),
            **changes,
        )
    )


def _training(path: Path) -> dict:
    """A checkpoint's training summary, without the folders of the machine it was made on."""
    return json.loads(json.dumps(read_checkpoint(path).training).replace(f"{ROOT}/", ""))


def _data(family: TinyFamily, *, size: int, min_crop: float, more: bool = False) -> DataConfig:
    folders = ("data", "data-more") if more else ("data",)
    return DataConfig(roots=tuple(family.work / folder for folder in folders), size=size, min_crop=min_crop, workers=0)


STAGES: dict[str, Callable[[TinyFamily], None]] = {
    "data": make_data,
    "autoencoder": train_autoencoder,
    "unet": train_unet,
    "real-data": make_real_data,
    "real-unet": train_real_unet,
    "harmony-vae": train_harmony_vae,
    "harmony-vae-finish": finish_harmony_vae,
    "inverse-unet": train_inverse_unet,
    "inverse-harmony-vae": train_inverse_harmony_vae,
    "inverse-harmony-vae-finish": finish_inverse_harmony_vae,
    "classifier": train_classifier,
    "export": export,
}


def main(family: TinyFamily) -> None:
    """Raises: ValueError for an unknown stage."""
    for name in family.stages or STAGES:
        if name not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {name!r}. Pass one of these.")
    torch.set_num_threads(family.threads)
    for name in family.stages or STAGES:
        STAGES[name](family)


if __name__ == "__main__":
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(tyro.cli(TinyFamily))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
