"""What every trainer is configured by: frozen dataclasses, saved beside the weights as `config.json`.

`Annotated[float, "(0, 1]"]` names the interval that a value must lie in: [ and ] include the bound, ( and ) do not.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal


@dataclass(frozen=True)
class DataConfig:
    """Where the images are, in iHarmony4's layout, and how they are cut."""

    roots: tuple[Path, ...] = ()
    """Folders that hold <subset>/composite_images, masks, real_images and the list file; their images are mixed."""
    weights: Annotated[tuple[float, ...], "(0, 1e9]"] = ()
    """Share of each root in the mixture, in any unit (2 1: twice as many from the first). None: in proportion to their lists."""
    list_file: str = "IHD_train.txt"
    """Root-relative composite paths, one a line (.txt), or objects with `file_name`, one a line (.jsonl)."""
    list_files: tuple[str, ...] = ()
    """The list file of each root, where they have different ones; takes the place of `list_file`."""
    size: Annotated[int, "[32, 8192]"] = 256
    """Side of the square images that are trained on; a multiple of 8."""
    sizes: Annotated[tuple[int, ...], "[32, 8192]"] = ()
    """Several sides to train on, one for each step in turn (256 256 512: every third step at 512). `size` is then that of sample
    sheets and validation."""
    min_crop: Annotated[float, "(0, 1]"] = 1.0
    """Smallest random crop, as a share of each side; a crop always keeps some foreground. 1: no cropping."""
    flip: bool = True
    """Mirror half of the images."""
    workers: Annotated[int, "[0, 256]"] = 2
    """Processes that read images; 0 reads them in the training process."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that is missing, cannot be read, or is not of its composite's size, or a mask that is none or marks nothing: stop with its
    path; or read all images once before the first step, name those, and train without their pairs (`bad_images.json` and lists without them are
    written to run.out)."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, a constant learning rate after linear warm-up (or a cosine), EMA."""

    learning_rate: Annotated[float, "(0, 1e3]"] = 1e-4
    schedule: Literal["constant_with_warmup", "cosine"] = "constant_with_warmup"
    warmup: Annotated[float, "[0, 1)"] = 0.02
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, "[0, 1e3]"] = 0.0
    betas: Annotated[tuple[float, float], "[0, 1)"] = (0.9, 0.999)
    gradient_clip: Annotated[float, "[0, 1e9]"] = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    ema_decay: Annotated[float, "[0, 1)"] = 0.999
    batch_size: Annotated[int, "[1, 1e6]"] = 16
    """Images per step, over all processes and parts."""
    accumulation: Annotated[int, "[1, 1e6]"] = 1
    """Parts that a step's batch is computed in."""
    epochs: Annotated[float, "(0, 1e6]"] = 10
    """Passes over the data."""
    steps: Annotated[int | None, "[1, 1e9]"] = None
    """Optimizer steps; where a preset has both, they come before its `epochs`. Give one of the two."""


@dataclass(frozen=True)
class RunConfig:
    """Where results go, and what is shown on the way."""

    out: Path = Path("runs/train")
    """Folder for checkpoints, sample sheets, the log and the state that a killed run resumes from."""
    seed: Annotated[int, "[0, 1e18]"] = 0
    save_every: Annotated[int, "[1, 1e9]"] = 500
    """Steps between checkpoints (and resumable states)."""
    keep_last: Annotated[int, "[1, 1e6]"] = 2
    """Resumable states that are kept. With one only, a state that turns out damaged has none before it."""
    sample_every: Annotated[int, "[1, 1e9]"] = 500
    """Steps between sample sheets."""
    samples: Annotated[int, "[1, 64]"] = 6
    """Images on a sample sheet."""
    validation_list: str | None = None
    """List file, in one or more of data.roots, of the images that validation measures loss and PSNR on. None: no validation."""
    validate_every: Annotated[int, "[1, 1e9]"] = 500
    """Steps between validations."""
    validation_images: Annotated[int, "[1, 1e6]"] = 32
    """Images that a validation measures, spread evenly over all that are listed."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where curves and sample sheets go besides log.jsonl, loss.png and samples/. WANDB_MODE=offline keeps wandb's on this machine."""
    log_every: Annotated[int, "[1, 1e6]"] = 10
    """Steps between looks at the loss, each of which makes a GPU wait. Every step's loss is logged all the same; on a CPU it is
    looked at each step."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    resume: bool = True
    """Go on from the newest state in `out`; off refuses a folder that holds one."""


@dataclass(frozen=True)
class TrainingConfig:
    """The part that all trainers share."""

    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    dry_run: bool = False
    """Build everything, check the data, print the plan (steps, parameters, memory) and stop. Nothing is written."""
    json: bool = False
    """Print one JSON object last: checkpoint, steps, loss; the plan after a dry run."""

    ignored_without: ClassVar[dict[str, str]] = {"run.validate_every": "run.validation_list", "run.validation_images": "run.validation_list"}
    """Field (or group of fields) -> the field without which it does nothing."""
    ignored_with: ClassVar[dict[str, str]] = {"data.list_file": "data.list_files"}
    """Field (or group of fields) -> the field with which it does nothing."""


def planned_steps(optim: OptimConfig, images: int) -> int:
    """Optimizer steps of a run over so many images."""
    return optim.steps or math.ceil(images * optim.epochs / optim.batch_size)


def field_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def as_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
