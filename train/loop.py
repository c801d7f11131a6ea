"""The one loop that every trainer runs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..common.processes import agreed_path, on_main, processes
from ..common.run_folder import hold, let_go
from ..common.text import pluralize
from .config import OptimConfig, RunConfig, planned_steps
from .data.batches import make_loader
from .data.sampler import BatchSampler
from .run.accelerator import accelerated
from .run.ema import Weights
from .run.log import Losses, Overflows, RunLog
from .run.state import check_steps, clear_log_after, collect, newest_state, read_state, write_state
from .validation import Validation, validate

logger = logging.getLogger("diffharmony")


class Task(nn.Module):
    """What is trained: a module whose forward turns a batch into its loss, and which can measure, show and save itself.

    `forward(batch) -> scalar loss`, a mean over the batch's samples; `trainable()` gives the parameters; `frozen()` the modules
    that it uses without holding them; `measure(batch) -> {name: [B]}` what validation tells besides the loss; `sheet()` a picture
    [3,H,W] in [-1,1] of the current weights at work; `save(path, training)` one checkpoint that the nodes load as it is.
    Randomness comes from `batch["seed"]`, one seed per sample.
    """

    checkpoint_name: str = "model.safetensors"

    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def frozen(self) -> list[nn.Module]:
        return []

    def measure(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {}

    def sheet(self) -> torch.Tensor:
        raise NotImplementedError

    def save(self, path: Path, training: dict[str, Any]) -> None:
        raise NotImplementedError


def sample_noise(seeds: torch.Tensor, shape: tuple[int, ...], stream: int = 0) -> torch.Tensor:
    """Standard normal noise [B, *shape], float32, drawn for each sample from its own seed, so that it does not depend on
    batch or process. seeds: [B] int64. `stream` gives independent draws for one seed."""
    return torch.stack([torch.randn(shape, generator=_generator(seed, stream)) for seed in seeds.tolist()])


def sample_uniform(seeds: torch.Tensor, count: int, stream: int) -> torch.Tensor:
    """Uniform numbers [B, count] in [0,1), float32, per sample as in `sample_noise`."""
    return torch.stack([torch.rand(count, generator=_generator(seed, stream)) for seed in seeds.tolist()])


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + stream * 0x9E3779B97F4A7C15) % 2**63)


def fit(
    task: Task, dataset: Dataset, *, optim: OptimConfig, run: RunConfig, workers: int, summary: dict[str, Any],
    validation: Validation | None = None, bad_images: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train `task` in as many processes as accelerate was told. Its EMA weights are saved as `<run.out>/<task.checkpoint_name>`,
    those without averaging under the same name in `<run.out>/last`.

    dataset: samples by index (train/data/dataset.py). summary: goes into the checkpoint's metadata with steps and loss.
    bad_images: files that were left out of it. Returns checkpoint, steps, loss, and these as "skipped". A killed run goes on from the
    newest state in `run.out` when called again.
    Raises: FloatingPointError with the batch's names when the loss is not finite, and when gradients overflow step after step;
    RuntimeError when another run is under way in `run.out`; ReaderDied; OSError when the disk is full;
    ValueError for what this machine or accelerate's configuration does not go together with.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    on_main(lambda: hold(run.out))
    try:
        with accelerated(optim, run) as accelerator:
            steps, loss = _fit(accelerator, task, dataset, optim, run, workers, summary, validation)
    finally:
        let_go(run.out)
    checkpoint = str(run.out / task.checkpoint_name)
    if processes().is_main_process:
        facts = [pluralize(steps, "step"), *([f"loss {loss:.5g}"] if loss is not None else [])]
        facts += [f"{pluralize(len(bad_images), 'bad image')} skipped"] if bad_images else []
        logger.info("Wrote %s (%s)", checkpoint, ", ".join(facts))
    return {"checkpoint": checkpoint, "steps": steps, "loss": loss, "skipped": list(bad_images)}


def _fit(
    accelerator: Accelerator, task: Task, dataset: Dataset, optim: OptimConfig, run: RunConfig, workers: int, summary: dict[str, Any],
    validation: Validation | None,
) -> tuple[int, float | None]:  # fmt: skip
    """The steps taken, and the smoothed loss (None without a step)."""
    set_seed(run.seed)
    steps = planned_steps(optim, len(dataset))
    weights = Weights(task, accelerator, run.mixed_precision)
    optimizer = torch.optim.AdamW(
        task.trainable(), lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay, foreach=True
    )
    schedule = get_scheduler(optim.schedule, optimizer, num_warmup_steps=round(steps * optim.warmup), num_training_steps=steps)
    task.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(task, optimizer)
    weights.begin(optimizer, optim.ema_decay)
    parts = (weights, schedule, accelerator.scaler)
    before = _restore(run, parts, steps, len(dataset))
    step = before["step"]
    batches = BatchSampler(
        batch_size=optim.batch_size, steps=steps, first_step=step, accumulation=optim.accumulation,
        rank=accelerator.process_index, processes=accelerator.num_processes,
    )  # fmt: skip
    losses, log = Losses(accelerator, optim.accumulation), RunLog(run, accelerator, step)
    overflows = Overflows(accelerator)
    look_every = 1 if accelerator.device.type == "cpu" else run.log_every
    started, part = time.monotonic(), 0
    loader = make_loader(dataset, batches, workers, accelerator.device)
    with tqdm(total=steps, initial=step, disable=not accelerator.is_main_process, unit="step", dynamic_ncols=True) as progress:
        for batch in loader:
            # randomness that is not a sample's own (dropout) depends on where the run is, not on when it was started
            torch.manual_seed(_part_seed(run.seed, step, part, accelerator.process_index))
            with accelerator.accumulate(prepared):
                loss = prepared(batch)
                losses.add(loss, batch["name"])
                accelerator.backward(loss)
                if accelerator.sync_gradients and optim.gradient_clip:
                    accelerator.clip_grad_norm_(prepared.parameters(), optim.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
            part += 1
            if not accelerator.sync_gradients:
                continue
            step, part = step + 1, 0
            if not overflows.skipped(step):
                schedule.step()
                weights.average()
            losses.end_step(step, schedule.get_last_lr()[0])
            progress.update()
            show, measure, save = (
                step % every == 0 or step == steps for every in (run.sample_every, run.validate_every, run.save_every)
            )
            if not (show or measure or save or step % look_every == 0):
                continue
            log.steps(losses.take())
            progress.set_postfix(loss=f"{log.smooth:.5f}", refresh=False)
            if validation is not None and measure:
                log.validation(step, validate(validation, weights, accelerator))
            if show:
                with weights.shown(averaged=True) as shown:
                    if shown is not None and accelerator.is_main_process:
                        log.sheet(step, shown.sheet())
            if save:
                training = {**summary, "step": step, "loss": log.smooth, "seconds": round(time.monotonic() - started, 1)}
                weights.save(run.out / task.checkpoint_name, training)
                state = {**collect(step, *parts, keep=accelerator.is_main_process), "images": len(dataset)}
                if accelerator.is_main_process:
                    write_state(run.out, state, run.keep_last)
            if show or save:
                accelerator.wait_for_everyone()
    return step, None if math.isnan(log.smooth) else log.smooth


def _restore(run: RunConfig, parts: tuple, steps: int, images: int) -> dict[str, Any]:
    """Go on from the newest state, the same in every process. Returns what it tells besides: "step", 0 without a state, and "images"."""
    path = agreed_path(on_main(lambda: newest_state(run.out)))
    state = {"step": 0, "images": images, **(read_state(path, *parts) if path else {})}
    check_steps(state["step"], steps, run.out)
    on_main(lambda: clear_log_after(run.out / "log.jsonl", state["step"]))
    if path and processes().is_main_process:
        logger.info("resuming from %s", path)
        if state["images"] != images:
            logger.warning(
                "the data set has %d images, %d when the run was left: it goes on, but not to the weights that it would have come to.",
                images, state["images"],
            )  # fmt: skip
    return state


def _part_seed(seed: int, step: int, part: int, process: int) -> int:
    return int(np.random.SeedSequence((seed, step, part, process)).generate_state(1, np.uint64)[0] >> 1)
