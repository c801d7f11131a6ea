"""--dry-run: what a run would do and need, without doing or writing it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..common.images import read_mask
from ..common.pictures import check_marked, dull
from ..common.processes import on_main, processes
from ..common.text import pluralize
from ..dataset.pairs import Pair
from .config import TrainingConfig, planned_steps
from .data.dataset import HarmonizationDataset
from .loop import Task
from .run.resume import check_goes_on
from .run.state import check_steps, newest_state, step_of
from .validation import Validation

logger = logging.getLogger("diffharmony")


def dry_run(task: Task, images: HarmonizationDataset, config: TrainingConfig, validation: Validation | None, views: int = 1) -> dict[str, Any]:
    """Print the plan of a run and return it. views: samples that each pair of `images` stands for.

    Memory is what each process holds whatever the images: weights, gradients, Adam's two moments and the average; what a forward pass
    keeps for the backward one comes on top. Raises: as the run would for a folder that holds another; ValueError naming masks that cannot
    be used, each of which is read.
    """
    optim, run, state = config.optim, config.run, processes()
    steps = planned_steps(optim, len(images) * views)
    newest = on_main(lambda: _goes_on_from(config, steps))
    if config.data.on_bad_image == "stop":
        on_main(lambda: _check_masks([*images.pairs, *(() if validation is None else validation.dataset.pairs)]))
    per_part = optim.batch_size // optim.accumulation // state.num_processes
    trainable = task.trainable()
    memory = {
        "weights": size_of([*task.parameters(), *task.buffers(), *(t for module in task.frozen() for t in module.parameters())]),
        "gradients": size_of(trainable),
        "adam": 2 * size_of(trainable),
        "ema": size_of(trainable),
    }
    plan = {
        "steps": steps,
        "epochs": round(steps * optim.batch_size / (len(images) * views), 3),
        "images": len(images),
        "missing_files": len(images.missing),
        "validation_images": 0 if validation is None else len(validation.indices),
        "processes": state.num_processes,
        "parts_per_step": optim.accumulation,
        "images_per_process_and_part": per_part,
        "warmup_steps": round(steps * optim.warmup),
        "trainable_parameters": sum(parameter.numel() for parameter in trainable),
        "all_parameters": sum(t.numel() for module in (task, *task.frozen()) for t in module.parameters()),
        "bytes_per_process": {**memory, "together": sum(memory.values())},
        "goes_on_from": None if newest is None else str(newest),
        "out": str(run.out),
    }
    if state.is_main_process:
        _print(plan, config)
    return plan


def _goes_on_from(config: TrainingConfig, steps: int) -> Path | None:
    check_goes_on(config)
    newest = newest_state(config.run.out)
    if newest is not None:
        check_steps(step_of(newest), steps, config.run.out)
    return newest


def _check_masks(pairs: Sequence[Pair]) -> None:
    masks = list(dict.fromkeys(pair.mask for pair in pairs))
    bad, dim = [], []
    with ThreadPoolExecutor() as pool:
        for error, warning in tqdm(pool.map(_look, masks), total=len(masks), desc="masks", unit="mask", delay=2, dynamic_ncols=True):
            bad += [error] if error else []
            dim += [warning] if warning else []
    if dim:
        logger.warning("%s well under white, the first: %s", pluralize(len(dim), "mask"), dim[0])
    if bad:
        found = f"{len(bad)} of {len(masks)} that are not"
        raise ValueError(f"every mask must be usable, got {found}. {bad[0]} Or pass --data.on-bad-image skip.")


def _look(path: Path) -> tuple[str | None, str | None]:
    """What is wrong with a mask, and what is to be warned of."""
    try:
        mask = read_mask(path)
        check_marked(mask, path)
    except (OSError, ValueError) as error:
        return str(error), None
    return None, dull(path, mask.getextrema()[1])


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors, each storage counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _print(plan: dict[str, Any], config: TrainingConfig) -> None:
    optim, run, memory = config.optim, config.run, plan["bytes_per_process"]
    each_step = zip((plan["processes"], plan["parts_per_step"], plan["images_per_process_and_part"]), ("process", "part", "image"))
    lines = [
        ("steps", f"{plan['steps']} of {pluralize(optim.batch_size, 'image')}: {plan['epochs']:g} epochs of {plan['images']}"),
        ("missing files", f"{plan['missing_files']}"),
        ("each step", " x ".join(pluralize(number, noun) for number, noun in each_step)),
        ("learning rate", f"{optim.learning_rate:g}, {optim.schedule}, {plan['warmup_steps']} steps of warm-up"),
        ("parameters", f"{plan['trainable_parameters']:,} trainable of {plan['all_parameters']:,}"),
        ("validation", f"{pluralize(plan['validation_images'], 'image')} every {run.validate_every} steps" if plan["validation_images"] else "none"),
        ("memory of each process, activations not counted", ""),
        ("  weights", _amount(memory["weights"])),
        ("  gradients", _amount(memory["gradients"])),
        ("  Adam", _amount(memory["adam"])),
        ("  EMA", _amount(memory["ema"])),
        ("  together", _amount(memory["together"])),
        ("goes on from", plan["goes_on_from"] or "the beginning"),
        ("writes to", plan["out"]),
    ]
    for name, value in lines:
        print(f"{name:<16} {value}".rstrip())
    if run.mixed_precision == "fp16" and not torch.cuda.is_available():
        print("This machine has no GPU: fp16 will be refused here.")


def _amount(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"
