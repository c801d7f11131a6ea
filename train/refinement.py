"""Train the refinement stage: from harmonized images to the real ones, at its own fixed size (SPEC §9, §10).

    diffharmony train-refinement paper --harmony-vae condition_vae --unet models/harmonization_unet.safetensors \\
        --data.roots iHarmony4 --run.out runs/refinement
    diffharmony train-refinement paper --harmonized runs/harmonized --data.size 256 --data.roots iHarmony4 --run.out runs/refinement
    diffharmony train-refinement tiny --harmony-vae assets/tiny/harmony_vae.safetensors --unet assets/tiny/harmonization_unet.safetensors \\
        --data.roots data/tiny --run.out runs/tiny-refinement
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from ..common.direction import check_directions
from ..dataset.pairs import Pair
from ..dataset.predictions import PredictionFolder
from ..diffusion.inference import ConditionedSampler, size_multiple
from ..diffusion.sampler import sample_generators
from ..refinement import HarmonyRefinement, load_refinement, save_refinement
from ..refinement.stage import mask_to_stage_size, to_stage_size
from .checks import check
from .config import DataConfig, OptimConfig, RunConfig, TrainingConfig, as_dict
from .data.bad_images import without_bad_images
from .data.crops import Crop, read_crop
from .data.dataset import HarmonizationDataset
from .dry_run import dry_run
from .loop import Task, fit
from .losses import reconstruction_loss
from .pretrained import load_pretrained_vae, sampling_unet
from .run.resume import take
from .validation import Validation, psnr, validation_of


@dataclass(frozen=True)
class RefinementArchitecture:
    """A model made from scratch, used when `init` is not given. The defaults are the authors' base model."""

    sample_size: int = 256
    """Side that the stage runs at, whatever the image's size."""
    in_channels: Literal[3, 4, 6, 7] = 7
    """3: the harmonized image alone. 4: and the mask. 6: and the composite. 7: and both."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width per level."""
    layers_per_block: int = 2
    norm_num_groups: int = 32
    add_attention: bool = True
    """Attention in the middle."""
    input_residual: bool = True
    """Predict the change and add it to the harmonized image."""
    identity_start: bool = False
    """Begin with a last convolution of zeros, so that the stage changes nothing until it is trained; the authors draw it at random."""


@dataclass(frozen=True)
class RefinementTraining(TrainingConfig):
    """Reconstruct the real image from the harmonized one, the composite and the mask."""

    harmony_vae: str | None = None
    """The VAE, Harmony-VAE or plain, that with `unet` harmonizes each composite anew, at `data.size`: folder, file or Hub id."""
    unet: str | None = None
    """The harmonization UNet that goes with it: folder, file or Hub id."""
    harmonized: Path | None = None
    """In place of the two: a folder of harmonized images, named and placed as `evaluate` takes predictions (<composite's name>.png, in
    it or in a folder of the subset's name), each of its composite's size; best with their whole decoded background (`diffharmony
    harmonize --no-paste-background`)."""
    init: Path | None = None
    """A refinement model to train further, folder or file; without it one is made from `architecture`."""
    architecture: RefinementArchitecture = field(default_factory=RefinementArchitecture)
    sampling_steps: Annotated[int, "[1, 1000]"] = 5
    """Steps of `unet`."""
    loss: Literal["squared", "l1"] = "squared"
    """squared: the authors' code."""
    foreground_weight: Annotated[float, "[0, 1e6]"] = 0.0
    """Weight of the foreground's own error, besides the whole image's."""

    ignored_without: ClassVar[dict[str, str]] = {**TrainingConfig.ignored_without, "sampling_steps": "unet"}
    ignored_with: ClassVar[dict[str, str]] = {**TrainingConfig.ignored_with, "architecture": "init"}


PRESETS: dict[str, tuple[str, RefinementTraining]] = {
    "paper": (
        "the authors' base model: harmonized at 512 px, refined at 256, squared error; optimizer and epochs as for the Harmony-VAE",
        RefinementTraining(
            data=DataConfig(size=512, workers=8),
            optim=OptimConfig(learning_rate=1e-4, epochs=10, batch_size=32),
            run=RunConfig(out=Path("runs/refinement"), mixed_precision="fp16"),
        ),
    ),
    "tiny": (
        "the tiny family: harmonized and refined at 128 px, made for two CPU cores",
        RefinementTraining(
            data=DataConfig(size=128, min_crop=0.5, workers=0),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", batch_size=8, steps=1500, ema_decay=0.995),
            run=RunConfig(out=Path("runs/tiny-refinement"), save_every=250, sample_every=250),
            architecture=RefinementArchitecture(
                sample_size=128, block_out_channels=(16, 32, 48), layers_per_block=1, norm_num_groups=4, identity_start=True
            ),
        ),
    ),
}


class HarmonizedDataset(HarmonizationDataset):
    """HarmonizationDataset whose `composite` has six channels: the composite, then the harmonized image of a folder, cut alike.

    beside: pairs of another data set, whose harmonized images lie in the same folder.
    Raises: FileNotFoundError when the folder is missing, or an image in it, unless bad images are left out; ValueError where one image
    would be that of two composites; BadImage (when read) for one that is damaged, or not of its composite's size.
    """

    def __init__(self, config: DataConfig, seed: int, folder: Path, *, batch_size: int | None = None, beside: Sequence[Pair] = ()):
        super().__init__(config, seed, batch_size=batch_size)
        if not folder.is_dir():
            raise FileNotFoundError(f"harmonized folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check the path.")
        found = _harmonized_images(folder, [*self.pairs, *beside])
        missing = [pair.composite.name for pair, name in zip(self.pairs, found) if name is None]
        if missing and config.on_bad_image == "stop":
            raise FileNotFoundError(
                f"every composite must have its harmonized image, got {len(missing)} missing in {folder.resolve()}, the first: "
                f"that of {missing[0]}. Harmonize the whole list, or pass --data.on-bad-image skip."
            )
        # where there is none, the path is one that reading it will name
        paths = [folder / (name or f"{pair.composite.stem}.png") for pair, name in zip(self.pairs, found)]
        self._harmonized = {pair: path for pair, path in zip(self.pairs, paths)}

    def read(self, pair: int, rng: np.random.Generator, size: int) -> Crop:
        same_draws = copy.deepcopy(rng)
        crop = super().read(pair, rng, size)
        # read as the pair's composite, with the same draws, it is cut and mirrored as the composite is
        files = self.pairs[pair]
        as_composite = dataclasses.replace(files, composite=self._harmonized[files])
        harmonized = read_crop(as_composite, size, min_crop=self.config.min_crop, flip=self.config.flip, rng=same_draws)[0]
        return crop._replace(composite=torch.cat([crop.composite, harmonized]))


class RefinementTask(Task):
    """Harmonize (or take the harmonized image), bring everything to the stage's size, refine."""

    checkpoint_name = "refinement.safetensors"

    def __init__(self, model: HarmonyRefinement, config: RefinementTraining, examples: dict[str, Any], vae=None, unet=None):
        super().__init__()
        self.model, self.config = model, config
        # a tuple hides the frozen models from this module's parameters
        self._harmonizer = (vae, unet)
        for name in ("composite", "mask", "real", "seed"):
            self.register_buffer(f"example_{name}", examples[name], persistent=False)

    def frozen(self) -> list[nn.Module]:
        return [model for model in self._harmonizer if model is not None]

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        stage = self._at_stage_size(batch)
        refined = self._refine(stage)
        return reconstruction_loss(
            refined, stage["real"], stage["mask"], kind=self.config.loss, foreground_weight=self.config.foreground_weight
        )

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """PSNR at the stage's size, of the refined image and of the harmonized one that it was made of."""
        stage = self._at_stage_size(batch)
        return {"psnr": psnr(self._refine(stage), stage["real"]), "psnr_harmonized": psnr(stage["harmonized"], stage["real"])}

    def _at_stage_size(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """harmonized, composite, real [B,3,h,w] in [-1,1] and mask [B,1,h,w] in {0,1}, of the model's own size."""
        composite, harmonized = batch["composite"][:, :3], batch["composite"][:, 3:]
        if not harmonized.shape[1]:
            harmonized = self._harmonize(composite, batch["mask"], batch["seed"].tolist())
        size = self.model.size
        images = {"harmonized": harmonized, "composite": composite, "real": batch["real"]}
        return {**{name: to_stage_size(image, size) for name, image in images.items()}, "mask": mask_to_stage_size(batch["mask"], size)}

    def _harmonize(self, composite: torch.Tensor, mask: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """The whole decoded image, as the stage gets it in harmonize()."""
        vae, unet = (model.to(composite.device) for model in self._harmonizer)
        sampler = ConditionedSampler(vae, unet, composite, mask, size="native", detail="decoded", paste_background=False)
        return sampler.sample(sample_generators(seeds, len(composite)), steps=self.config.sampling_steps)

    def _refine(self, stage: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B,3,h,w]; not clamped, so that a value beyond the range still has a gradient."""
        return self.model(self.model.stack(stage["harmonized"], stage["composite"], stage["mask"])).sample

    def sheet(self) -> torch.Tensor:
        """Rows: composite, mask, harmonized, refined, real image; at the stage's size."""
        from torchvision.utils import make_grid

        stage = self._at_stage_size({name: getattr(self, f"example_{name}") for name in ("composite", "mask", "real", "seed")})
        rows = [stage["composite"], stage["mask"].expand_as(stage["real"]) * 2 - 1, stage["harmonized"], self._refine(stage), stage["real"]]
        return make_grid(torch.cat(rows), nrow=len(stage["real"]))

    def save(self, path: Path, training: dict[str, Any]) -> None:
        save_refinement(self.model, path, training=training, dtype=torch.float32)


def make_refinement(architecture: RefinementArchitecture, seed: int) -> HarmonyRefinement:
    """A model with random weights. Raises: ValueError for fields that describe none, or an identity start without the residual."""
    if architecture.identity_start and not architecture.input_residual:
        raise ValueError("architecture.identity_start must be off without architecture.input_residual, got both. Choose one of them.")
    torch.manual_seed(seed)
    fields = {name: value for name, value in dataclasses.asdict(architecture).items() if name != "identity_start"}
    levels = len(architecture.block_out_channels)
    model = HarmonyRefinement(
        **fields,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        downsample_padding=0,
        attention_head_dim=None,
        norm_eps=1e-6,
    )
    if architecture.identity_start:
        torch.nn.init.zeros_(model.conv_out.weight)
        torch.nn.init.zeros_(model.conv_out.bias)
    return model


def load_harmonizer(config: RefinementTraining) -> tuple[Any, Any]:
    """The frozen (VAE, UNet) that make the harmonized images; (None, None) where a folder gives them.

    Raises: ValueError when it is not clear which of the two ways is meant, or the models do not go together.
    """
    given = [name for name in ("harmony_vae", "unet") if getattr(config, name) is not None]
    if config.harmonized is not None:
        if given:
            raise ValueError(f"harmonized must be left out where {' and '.join(given)} are given, got {config.harmonized}. Choose one way.")
        return None, None
    if len(given) < 2:
        found = f"only {given[0]}" if given else "none of the three"
        raise ValueError(
            f"harmonized images must come from harmony_vae and unet, or from the folder harmonized, got {found}. "
            "Pass --harmony-vae FILE --unet FILE, or --harmonized FOLDER."
        )
    vae = load_pretrained_vae(config.harmony_vae, "harmony_vae").requires_grad_(False)
    unet = sampling_unet(config.unet, "harmonize")
    if hasattr(vae, "encode_condition"):
        check_directions(vae, unet)
    multiple = size_multiple(vae, unet)
    for size in (config.data.size, *config.data.sizes):
        if size % multiple:
            raise ValueError(f"data.size must be a multiple of {multiple} for these models, got {size}. Choose 512, say.")
    return vae.eval(), unet.eval()


def load_data(config: RefinementTraining) -> tuple[HarmonizationDataset, Validation | None]:
    """What is trained on, and what is validated on, with the harmonized images where a folder has them. Raises as the data sets do."""
    validation = validation_of(config)
    if config.harmonized is None:
        dataset = HarmonizationDataset(config.data, config.run.seed, batch_size=config.optim.batch_size)
        return without_bad_images(dataset, config), validation
    dataset = HarmonizedDataset(config.data, config.run.seed, config.harmonized, batch_size=config.optim.batch_size)
    dataset = without_bad_images(dataset, config)
    if validation is not None:
        validation.dataset = HarmonizedDataset(validation.dataset.config, config.run.seed, config.harmonized, beside=dataset.pairs)
    return dataset, validation


def main(config: RefinementTraining) -> dict[str, Any]:
    """Train; returns checkpoint, steps, loss and the bad images that were left out, or after a dry run the plan."""
    check(config)
    vae, unet = load_harmonizer(config)
    model = load_refinement(config.init) if config.init else make_refinement(config.architecture, config.run.seed)
    dataset, validation = load_data(config)
    if config.run.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    task = RefinementTask(model.train(), config, dataset.examples(config.run.samples), vae, unet)
    if config.dry_run:
        return dry_run(task, dataset, config, validation)
    take(config)
    summary = {"command": "train-refinement", "config": as_dict(config)}
    return fit(
        task, dataset, optim=config.optim, run=config.run, workers=config.data.workers, summary=summary, validation=validation,
        bad_images=dataset.bad_images,
    )  # fmt: skip


def _harmonized_images(folder: Path, pairs: Sequence[Pair]) -> list[str | None]:
    """Each pair's file in the folder, as `evaluate` finds predictions; None where there is none."""
    try:
        return PredictionFolder(folder).match(pairs)[0]
    except ValueError as error:
        raise ValueError(f"{error} Where data.roots have subsets of one name, rename the subset in one of them, folder and list.") from error
