"""What every trainer is configured by: frozen dataclasses, saved beside the weights as `config.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..common.checkpoint import written_whole

Direction = Literal["harmonize", "invert"]


@dataclass(frozen=True)
class DataConfig:
    """Where the images are, in iHarmony4's layout, and how they are cut."""

    roots: tuple[Path, ...] = ()
    """Folders that hold <subset>/composite_images, masks, real_images and the list file."""
    list_file: str = "IHD_train.txt"
    """Root-relative composite paths, one a line (.txt), or objects with `file_name`, one a line (.jsonl)."""
    size: int = 256
    """Side of the square images that are trained on; a multiple of 8."""
    min_crop: float = 1.0
    """Smallest random crop, as a share of each side; a crop always keeps some foreground. 1: no cropping."""
    flip: bool = True
    """Mirror half of the images."""
    workers: int = 2
    """Processes that read images; 0 reads them in the training process."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, a constant learning rate after linear warm-up (or a cosine), EMA."""

    learning_rate: float = 1e-4
    schedule: Literal["constant_with_warmup", "cosine"] = "constant_with_warmup"
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    ema_decay: float = 0.999
    batch_size: int = 16
    """Images per step, over all processes."""
    accumulation: int = 1
    """Parts that a step's batch is computed in."""
    epochs: float = 10
    steps: int | None = None
    """Optimizer steps; overrides `epochs`."""


@dataclass(frozen=True)
class RunConfig:
    """Where results go, and what is shown on the way."""

    out: Path = Path("runs/train")
    """Folder for checkpoints, sample sheets, the log and the state that a killed run resumes from."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints (and resumable states)."""
    sample_every: int = 500
    """Steps between sample sheets."""
    samples: int = 6
    """Images on a sample sheet."""
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
    json: bool = False
    """Print one JSON object last: checkpoint, steps, loss."""


def check(config: TrainingConfig) -> None:
    """Raises: ValueError for the first field that cannot work, with what must hold."""
    rules = [
        ("data.roots", config.data.roots, bool(config.data.roots), "name at least one folder", "Pass --data.roots FOLDER."),
        ("data.size", config.data.size, config.data.size >= 32 and config.data.size % 8 == 0, "be a multiple of 8, 32 or more", "Choose 256, say."),
        ("data.min_crop", config.data.min_crop, 0 < config.data.min_crop <= 1, "be in (0, 1]", "Choose 1 for no cropping."),
        ("data.workers", config.data.workers, config.data.workers >= 0, "be 0 or more", "Choose 0 or more."),
        ("optim.learning_rate", config.optim.learning_rate, config.optim.learning_rate > 0, "be positive", "Choose 1e-4, say."),
        ("optim.warmup", config.optim.warmup, 0 <= config.optim.warmup < 1, "be in [0, 1)", "Choose 0.02, say."),
        ("optim.ema_decay", config.optim.ema_decay, 0 <= config.optim.ema_decay < 1, "be in [0, 1)", "Choose 0.999, say."),
        ("optim.batch_size", config.optim.batch_size, config.optim.batch_size >= 1, "be 1 or more", "Choose 1 or more."),
        (
            "optim.accumulation", config.optim.accumulation,
            config.optim.accumulation >= 1 and config.optim.batch_size % max(1, config.optim.accumulation) == 0,
            f"divide the batch size {config.optim.batch_size}", "Choose a divisor.",
        ),
        ("optim.steps", config.optim.steps, config.optim.steps is None or config.optim.steps >= 1, "be 1 or more", "Leave it out to go by epochs."),
        ("run.save_every", config.run.save_every, config.run.save_every >= 1, "be 1 or more", "Choose 500, say."),
        ("run.sample_every", config.run.sample_every, config.run.sample_every >= 1, "be 1 or more", "Choose 500, say."),
    ]  # fmt: skip
    for name, value, holds, rule, action in rules:
        if not holds:
            raise ValueError(f"{name} must {rule}, got {value!r}. {action}")


def as_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def prepare(config: TrainingConfig) -> None:
    """Make the run's folder and save the config in it, once everything it names has been loaded."""
    config.run.out.mkdir(parents=True, exist_ok=True)
    save_config(config, config.run.out / "config.json")


def save_config(config: Any, path: Path) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(as_dict(config), indent=2) + "\n", encoding="utf-8")
