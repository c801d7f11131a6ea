"""Train the harmony classifier: composites from real images, by a linear probe on a frozen ResNet-50, or a small network throughout
(SPEC §5).

    diffharmony train-classifier paper --backbone-weights resnet50-0676ba61.pth --data.roots iHarmony4 --run.out runs/classifier
    diffharmony train-classifier paper --backbone-weights timm/resnet50.tv_in1k:model.safetensors --data.roots iHarmony4
    diffharmony train-classifier tiny --data.roots data/tiny --run.out runs/tiny-classifier
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ..classifier.checkpoint import load_backbone, load_harmony_classifier, save_harmony_classifier
from ..classifier.model import CROP_MARGIN, INPUT_SIZE, RESNET50, SMALL, SMALL_WIDTHS, UNHARMONIOUS, HarmonyClassifier
from ..common.files import written_whole
from ..common.processes import on_main, processes
from ..common.sheets import labelled_sheet
from ..common.weights.hub import parse_hub_id
from ..common.weights.layout import CLASSIFIER
from .checks import check, check_one_size
from .config import DataConfig, OptimConfig, RunConfig, TrainingConfig, as_dict
from .data.bad_images import without_bad_images
from .data.classifier_pairs import (
    COMPOSITE_FEATURES,
    REAL_FEATURES,
    ClassifierPairs,
    HeldOut,
    cache_features,
    check_apart,
    photographs_of,
    split_photographs,
)  # fmt: skip
from .dry_run import dry_run
from .loop import Task, fit
from .pretrained import find_pretrained
from .run.resume import take
from .validation import Validation

logger = logging.getLogger("diffharmony")
RANDOM = "random"
AT_ONCE = 32  # pairs that the report measures at once


@dataclass(frozen=True)
class ClassifierArchitecture:
    """A classifier made anew, when `init` is not given. The defaults are the paper's."""

    backbone: Literal["resnet50", "small"] = RESNET50
    """resnet50: torchvision's, frozen, a linear probe on its features. small: a network of about a million parameters."""
    input_size: int = INPUT_SIZE
    """Side that the classifier sees an image, or a crop of one, at."""
    crop: bool = False
    """See the masked region's crop with some of what surrounds it, in place of the whole image (the paper's form). The classifier then
    needs a mask."""
    crop_margin: float = CROP_MARGIN
    """What surrounds the region, to each side, as a share of its longer side."""
    mask_channel: bool = False
    """See the mask as well (small backbone only). The classifier then needs a mask."""
    widths: tuple[int, ...] = SMALL_WIDTHS
    """Width of each level of the small backbone."""


@dataclass(frozen=True)
class ClassifierTraining(TrainingConfig):
    """Each listed composite is one sample of class 1, its real image one of class 0."""

    architecture: ClassifierArchitecture = field(default_factory=ClassifierArchitecture)
    backbone_weights: str | None = None
    """ResNet-50 weights under torchvision's names, trained on ImageNet: a file (.pth, .safetensors), or a file on the Hub
    (owner/name:file). random: none, for trying things out."""
    init: Path | None = None
    """A classifier to train further; without it one is made from `architecture`."""
    alike: bool = False
    """Pass both images of a pair through the same random gains, gamma, resize and JPEG compression, so that a composite cannot be told
    by its file's history in place of its light."""
    ranking: Annotated[float, "[0, 1e6]"] = 0.0
    """Weight of a loss that wants each composite above its own real image, which is what selection needs; besides the paper's, which
    wants each on its side."""
    views: Annotated[int, "[1, 1000]"] = 1
    """Cuts of each pair whose features are cached (resnet50)."""
    held_out: Annotated[float, "[0, 1)"] = 0.1
    """Share of the photographs, with all composites of each, that is not trained on but reported on. 0: none. With
    run.validation-list, the photographs of that list take their place."""
    held_out_seed: Annotated[int, "[0, 1e18]"] = 0
    """Which photographs these are. Not run.seed: a classifier that is trained further must not be trained on what it is reported on."""

    ignored_without: ClassVar[dict[str, str]] = {}
    ignored_with: ClassVar[dict[str, str]] = {
        **TrainingConfig.ignored_with, "architecture": "init", "backbone_weights": "init", "held_out": "run.validation_list",
        "held_out_seed": "run.validation_list",
    }  # fmt: skip


PRESETS: dict[str, tuple[str, ClassifierTraining]] = {
    "paper": (
        "SPEC §5: ImageNet's ResNet-50 frozen, features of all iHarmony4 computed once, then a linear probe; whole images at 256 px",
        ClassifierTraining(
            data=DataConfig(size=256, flip=False, workers=8),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", batch_size=512, epochs=20),
            run=RunConfig(out=Path("runs/classifier")),
        ),
    ),
    "tiny": (
        "the tiny family: the small network on crops of the masked region with the mask, made for one CPU core",
        ClassifierTraining(
            data=DataConfig(size=256, min_crop=0.6, workers=0),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", weight_decay=0.01, batch_size=16, steps=2600, ema_decay=0.995),
            run=RunConfig(out=Path("runs/tiny-classifier"), save_every=250, sample_every=500, validate_every=250, validation_images=256),
            architecture=ClassifierArchitecture(backbone=SMALL, input_size=128, crop=True, mask_channel=True),
            alike=True,
            ranking=1.0,
        ),
    ),
}


class ClassifierTask(Task):
    """Cross-entropy of the composite (class 1) and the real image (class 0) of each pair, and of which of the two is which."""

    checkpoint_name = "harmony_classifier.safetensors"

    def __init__(self, classifier: HarmonyClassifier, examples: dict[str, Any], ranking: float = 0.0):
        super().__init__()
        self.classifier, self.ranking = classifier, ranking
        for name in ("composite", "mask", "real"):
            self.register_buffer(f"example_{name}", examples[name], persistent=False)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        logits = self.logits(batch)
        labels = torch.arange(2, device=logits.device).repeat_interleave(len(logits) // 2).flip(0)
        loss = F.cross_entropy(logits.float(), labels)
        if self.ranking:
            composites, reals = (logits.float()[:, UNHARMONIOUS] - logits.float()[:, 1 - UNHARMONIOUS]).chunk(2)
            loss = loss + self.ranking * F.softplus(reals - composites).mean()
        return loss

    def logits(self, batch: dict[str, Any]) -> torch.Tensor:
        """[2 B, 2]: of the composites, then of the real images."""
        if COMPOSITE_FEATURES in batch:
            return self.classifier.probe(torch.cat([batch[COMPOSITE_FEATURES], batch[REAL_FEATURES]]))
        mask = batch["mask"].repeat(2, 1, 1, 1) if self.classifier.needs_mask else None
        return self.classifier(torch.cat([batch["composite"], batch["real"]]), mask)

    def probabilities(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unharmonious probability [B] of the composites, and of the real images."""
        composites, reals = self.logits(batch).float().softmax(dim=1)[:, UNHARMONIOUS].chunk(2)
        return composites, reals

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """`accuracy` over both images of a pair; `ordered`, whether the composite is the more unharmonious one."""
        composites, reals = self.probabilities(batch)
        return {"accuracy": ((composites >= 0.5).float() + (reals < 0.5).float()) / 2, "ordered": (composites > reals).float()}

    def sheet(self) -> torch.Tensor:
        """Composites, then real images, each above its unharmonious probability."""
        images = {name: getattr(self, f"example_{name}") for name in ("composite", "mask", "real")}
        found = torch.cat(self.probabilities(images)).tolist()
        kinds = ["composite"] * len(images["composite"]) + ["real"] * len(images["real"])
        return labelled_sheet(torch.cat([images["composite"], images["real"]]), [f"{k}: {p:.2f}" for k, p in zip(kinds, found)])[0]

    def save(self, path: Path, training: dict[str, Any]) -> None:
        save_harmony_classifier(self.classifier, path, training=training, dtype=torch.float32)


def load_pretrained_classifier(config: ClassifierTraining) -> HarmonyClassifier:
    """The classifier to train: `init`'s, or one made from `architecture`, with ResNet-50's weights from where `backbone_weights` says.

    Raises: ValueError for fields that do not go together, FileNotFoundError for weights that are not there.
    """
    if config.init is not None:
        return load_harmony_classifier(config.init)
    torch.manual_seed(config.run.seed)
    classifier = HarmonyClassifier(**vars(config.architecture))
    weights = config.backbone_weights
    if config.architecture.backbone != RESNET50:
        if weights is not None:
            raise ValueError(
                f"backbone_weights must be left out for the backbone {config.architecture.backbone}, got {weights!r}. Leave it out."
            )
    elif weights is None:
        raise ValueError(
            "backbone_weights must name ResNet-50's ImageNet weights, got None. Pass --backbone-weights FILE, or owner/name:file on the "
            "Hub (timm/resnet50.tv_in1k:model.safetensors is torchvision's first)."
        )
    elif weights != RANDOM:
        load_backbone(classifier, _find_backbone(weights))
    else:
        logger.warning("backbone_weights: random. Such features tell little; pass ImageNet's weights for use.")
    return classifier


def _find_backbone(weights: str) -> Path:
    model = None if Path(weights).expanduser().exists() else parse_hub_id(weights)
    if model is not None and not model.inside:
        raise ValueError(
            f"backbone_weights must name the weights file of a Hub repository after a colon, got {weights!r}. "
            "Say owner/name@revision:model.safetensors."
        )
    return find_pretrained(weights, CLASSIFIER, "backbone_weights")


def load_data(config: ClassifierTraining) -> tuple[ClassifierPairs, ClassifierPairs | None]:
    """What is trained on, and what is held out: whole, untreated pairs of other photographs (None: nothing).

    Raises: as the data set does; ValueError where a photograph would be on both sides, or a side empty.
    """
    every = ClassifierPairs(config.data, config.run.seed, alike=config.alike, batch_size=config.optim.batch_size)
    every = without_bad_images(every, config)
    whole = {"min_crop": 1.0, "flip": False, "sizes": ()}
    if config.run.validation_list is not None:
        first = {"roots": config.data.roots[:1], "list_file": config.run.validation_list, "list_files": (), "weights": (), "on_bad_image": "stop"}
        listed = ClassifierPairs(replace(config.data, **whole, **first), config.run.seed)
        check_apart(every.pairs, listed.pairs)
        return every, listed
    trained, held_out = split_photographs(every.pairs, config.held_out, config.held_out_seed)
    if not held_out:
        return every, None
    rest = every.only(held_out, **whole)
    rest.alike = False
    return every.only(trained), rest


def main(config: ClassifierTraining) -> dict[str, Any]:
    """Train, then report on the held-out photographs; returns checkpoint, steps, loss, the bad images that were left out and
    `report`, or after a dry run the plan."""
    check(config)
    if config.run.gradient_checkpointing:
        raise ValueError("run.gradient_checkpointing must be off, since these networks have none, got True. Leave it out.")
    classifier = load_pretrained_classifier(config)
    frozen = classifier.config["backbone"] == RESNET50
    if frozen:
        check_one_size(config.data, "features are cached (backbone resnet50)")
    images, held_images = load_data(config)
    task = ClassifierTask(classifier.train(), images.examples(config.run.samples), config.ranking)
    part = config.optim.batch_size // config.optim.accumulation
    held_out = None if held_images is None else HeldOut(held_images)
    if config.dry_run:
        validation = None if held_out is None else Validation(held_out, config.run.validation_images, part)
        return dry_run(task, images, config, validation, views=config.views)
    take(config)
    dataset = images
    if frozen:
        where = {"folder": config.run.out, "seed": config.run.seed, "device": processes().device}
        # the first process computes them, the others read its files
        with processes().main_process_first():
            dataset = cache_features(classifier, images, views=config.views, **where)
            if held_images is not None:
                held_out = HeldOut(held_images, cache_features(classifier, held_images, views=1, **where))
    validation = None if held_out is None else Validation(held_out, config.run.validation_images, part)
    summary = {"command": "train-classifier", "config": as_dict(config)}
    result = fit(
        task, dataset, optim=config.optim, run=config.run, workers=0 if frozen else config.data.workers, summary=summary,
        validation=validation, bad_images=images.bad_images,
    )  # fmt: skip
    report = None if held_out is None else on_main(lambda: report_held_out(Path(result["checkpoint"]), held_out, config))
    return {**result, "report": report}


def report_held_out(checkpoint: Path, held_out: HeldOut, config: ClassifierTraining) -> dict[str, Any]:
    """Accuracy, AUC and calibration of a checkpoint on the held-out pairs; written to report.json and calibration.png beside it."""
    from ..classifier.measures import draw_measures, measure_probabilities, measures_text

    device = processes().device
    task = ClassifierTask(load_harmony_classifier(checkpoint).to(device), held_out.images.examples(1)).eval()
    composites, reals = [], []
    with torch.no_grad():
        for batch in tqdm(held_out.batches(AT_ONCE, device), desc="report", unit="batch", delay=2, dynamic_ncols=True):
            for found, values in zip((composites, reals), task.probabilities(batch)):
                found.append(values.cpu())
    composites, reals = torch.cat(composites).numpy(), torch.cat(reals).numpy()
    photographs = len(set(photographs_of(held_out.pairs)))
    report = {"pairs": len(held_out.pairs), "photographs": photographs, **measure_probabilities(composites, reals)}
    with written_whole(config.run.out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw_measures(composites, reals, config.run.out / "calibration.png")
    stream = sys.stderr if config.json else sys.stdout
    print(f"Held out, {photographs} photographs:\n{measures_text(report)}", file=stream, flush=True)
    return report
