"""The one loop that every trainer runs."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from filelock import FileLock, Timeout
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..common.allocator import keep_freed_memory
from .config import OptimConfig, RunConfig
from .curves import draw_curve
from .data import CounterBatches, make_loader
from .state import clear_log_after, newest_state, read_state, write_state

logger = logging.getLogger("diffharmony")


class Task(nn.Module):
    """What is trained: a module whose forward turns a batch into its loss, and which can show and save itself.

    `forward(batch) -> scalar loss`; `trainable()` gives the parameters; `sheet()` a picture [3,H,W] in [-1,1] of the
    current weights at work; `save(path, training)` one checkpoint that the nodes load as it is. Randomness comes from
    `batch["seed"]` alone, one seed per sample.
    """

    checkpoint_name: str = "model.safetensors"

    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

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


def fit(task: Task, dataset: Dataset, *, optim: OptimConfig, run: RunConfig, workers: int, summary: dict[str, Any]) -> dict[str, Any]:
    """Train `task`; its EMA weights are saved as `<run.out>/<task.checkpoint_name>`, which is returned with steps and loss.

    dataset: samples by counter (train/data.py). summary: goes into the checkpoint's metadata with steps and loss.
    A killed run goes on from the newest state in `run.out` when called again. Raises: FloatingPointError with the batch's
    names when the loss is not finite; RuntimeError when another run is under way in `run.out`; ValueError for fp16 on a CPU.
    """
    if run.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("run.mixed_precision must be no or bf16 on a CPU, got fp16. Leave it out, or run on a GPU.")
    if not torch.cuda.is_available():
        keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        gradient_accumulation_steps=optim.accumulation,
        log_with="tensorboard",
        project_dir=run.out,
    )
    with _alone(run.out, accelerator.is_main_process):
        return _fit(accelerator, task, dataset, optim, run, workers, summary)


def _fit(
    accelerator: Accelerator, task: Task, dataset: Dataset, optim: OptimConfig, run: RunConfig, workers: int, summary: dict[str, Any]
) -> dict[str, Any]:
    set_seed(run.seed)
    steps = optim.steps or math.ceil(len(dataset) * optim.epochs / optim.batch_size)
    parameters = task.trainable()
    optimizer = torch.optim.AdamW(
        parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay, foreach=True
    )
    schedule = get_scheduler(optim.schedule, optimizer, num_warmup_steps=round(steps * optim.warmup), num_training_steps=steps)
    ema = EMAModel(parameters, decay=optim.ema_decay)
    first_step = _restore(run, parameters, optimizer, schedule, ema)
    task.to(accelerator.device)
    ema.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(task, optimizer)
    batches = CounterBatches(
        batch_size=optim.batch_size, steps=steps, first_step=first_step, accumulation=optim.accumulation,
        rank=accelerator.process_index, processes=accelerator.num_processes,
    )  # fmt: skip
    accelerator.init_trackers("tensorboard")
    log = _Log(run.out / "log.jsonl", accelerator)
    progress = tqdm(total=steps, initial=first_step, disable=not accelerator.is_main_process, unit="step", dynamic_ncols=True)
    step, losses, started = first_step, [], time.monotonic()
    for batch in make_loader(dataset, batches, workers):
        with accelerator.accumulate(prepared):
            loss = prepared({name: v.to(accelerator.device) if torch.is_tensor(v) else v for name, v in batch.items()})
            if not torch.isfinite(loss.detach()):
                raise FloatingPointError(
                    f"loss must be finite, got {loss.item()} at step {step + 1} for {', '.join(batch['name'])}. "
                    "Look at these images, or lower optim.learning-rate; the last state is kept."
                )
            accelerator.backward(loss)
            if accelerator.sync_gradients and optim.gradient_clip:
                accelerator.clip_grad_norm_(parameters, optim.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        ema.step(parameters)
        step += 1
        value = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
        losses = []
        log.add(step, loss=value, learning_rate=schedule.get_last_lr()[0])
        progress.update()
        progress.set_postfix(loss=f"{log.smooth:.5f}", refresh=False)
        if accelerator.is_main_process:
            if step % run.sample_every == 0 or step == steps:
                with using(ema, parameters):
                    _write_sheet(task, run.out / "samples" / f"step-{step:07d}.png")
                draw_curve(run.out / "log.jsonl", run.out / "loss.png")
            if step % run.save_every == 0 or step == steps:
                training = {**summary, "step": step, "loss": log.smooth, "seconds": round(time.monotonic() - started, 1)}
                with using(ema, parameters):
                    task.save(run.out / task.checkpoint_name, training)
                write_state(run.out, step, parameters, optimizer, schedule, ema)
    progress.close()
    accelerator.end_training()
    loss = None if math.isnan(log.smooth) else log.smooth
    return {"checkpoint": str(run.out / task.checkpoint_name), "steps": step, "loss": loss}


@contextmanager
def using(ema: EMAModel, parameters: list[nn.Parameter]):
    """The EMA weights in place of the trained ones, inside the block."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def _restore(run: RunConfig, parameters, optimizer, schedule, ema) -> int:
    path = newest_state(run.out)
    step = read_state(path, parameters, optimizer, schedule, ema) if path else 0
    clear_log_after(run.out / "log.jsonl", step)
    if path:
        logger.info("resuming from %s", path)
    return step


@contextmanager
def _alone(out: Path, is_main_process: bool):
    """Hold the run's folder, so that no second run writes to it. The system lets go of it when this process dies."""
    if not is_main_process:
        yield
        return
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"run.out must be used by one run at a time, got {out}, where another is under way. Choose another folder.") from None
    try:
        yield
    finally:
        lock.release()


def _write_sheet(task: Task, path: Path) -> None:
    from torchvision.utils import save_image

    from ..common.checkpoint import written_whole

    path.parent.mkdir(exist_ok=True)
    was_training = task.training
    task.eval()
    with torch.no_grad(), written_whole(path) as temporary:
        save_image(task.sheet().float().cpu().clamp(-1, 1), temporary, normalize=True, value_range=(-1, 1))
    task.train(was_training)


class _Log:
    """One JSON line a step, the trackers, and a smoothed loss."""

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator = path, accelerator
        self.smooth = math.nan

    def add(self, step: int, *, loss: float, learning_rate: float) -> None:
        self.smooth = loss if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * loss
        self.accelerator.log({"loss": loss, "learning_rate": learning_rate}, step=step)
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "loss": loss, "learning_rate": learning_rate}) + "\n")
