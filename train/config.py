"""What every trainer is configured by: frozen dataclasses, saved beside the weights as `config.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..common.checkpoint import read_json, written_whole
from .state import newest_state

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


# Dotted field -> the interval it must lie in: [ and ] include the bound, ( and ) do not.
RANGES = {
    "data.size": "[32, 8192]",
    "data.min_crop": "(0, 1]",
    "data.workers": "[0, 256]",
    "optim.learning_rate": "(0, 1e3]",
    "optim.warmup": "[0, 1)",
    "optim.weight_decay": "[0, 1e3]",
    "optim.gradient_clip": "[0, 1e9]",
    "optim.ema_decay": "[0, 1)",
    "optim.batch_size": "[1, 1e6]",
    "optim.accumulation": "[1, 1e6]",
    "optim.epochs": "(0, 1e6]",
    "optim.steps": "[1, 1e9]",
    "run.save_every": "[1, 1e9]",
    "run.sample_every": "[1, 1e9]",
    "run.samples": "[1, 64]",
}
# What may differ when a run is gone on with.
FREE = {"json", "data.workers", "optim.steps", "optim.epochs", "run.out", "run.save_every", "run.sample_every", "run.samples", "run.resume"}


def check(config: TrainingConfig, ranges: dict[str, str] | None = None) -> None:
    """Check the shared fields and the trainer's own `ranges`.

    Raises: ValueError for the first field that cannot work, with what must hold.
    """
    if not config.data.roots:
        raise ValueError("data.roots must name at least one folder, got none. Pass --data.roots FOLDER.")
    for name, interval in {**RANGES, **(ranges or {})}.items():
        value = _field(config, name)
        if value is not None and not _inside(value, interval):
            raise ValueError(f"{name} must lie in {interval}, got {value!r}. Choose a value from there.")
    if config.data.size % 8:
        raise ValueError(f"data.size must be a multiple of 8, got {config.data.size}. Choose 256, say.")
    if config.optim.batch_size % config.optim.accumulation:
        raise ValueError(
            f"optim.accumulation must divide the batch size {config.optim.batch_size}, got {config.optim.accumulation}. Choose a divisor."
        )


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def as_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def prepare(config: TrainingConfig) -> None:
    """Make the run's folder and save the config in it, once everything it names has been loaded.

    Raises: FileExistsError when the folder holds a state and `run.resume` is off; ValueError when it holds one of a run that
    was configured otherwise.
    """
    path = config.run.out / "config.json"
    state = newest_state(config.run.out)
    if state is not None:
        if not config.run.resume:
            raise FileExistsError(f"run.out must hold no state when run.resume is off, got {state}. Choose another folder, or resume.")
        _check_same(read_json(path), as_dict(config), config.run.out)
    config.run.out.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(as_dict(config), indent=2) + "\n", encoding="utf-8")


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path, prefix: str = "") -> None:
    for name in sorted(before.keys() | now.keys()):
        old, new, dotted = before.get(name), now.get(name), prefix + name
        if isinstance(old, dict) and isinstance(new, dict):
            _check_same(old, new, out, f"{dotted}.")
        elif old != new and dotted not in FREE:
            raise ValueError(
                f"{dotted} must be {old!r} to go on with the run in {out}, got {new!r}. Choose another run.out, or go on with the same settings."
            )
