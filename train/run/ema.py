"""The weights of a run: as trained and averaged, in one place or sharded over processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from .accelerator import compute_in, is_sharded
from .sharding import whole


class Weights:
    """A task's parameters, their exponential moving average, and the task with either in it.

    Made before the task is sharded; `begin` follows once it is.
    """

    def __init__(self, task: nn.Module, accelerator: Accelerator, mixed_precision: str):
        self.task, self.accelerator = task, accelerator
        self.sharded = is_sharded(accelerator)
        # the whole task on the first process's CPU, for what cannot be done with a part of the weights
        self._whole = copy.deepcopy(task) if self.sharded and accelerator.is_main_process else None
        for module in (task, self._whole):
            if module is not None:
                compute_in(mixed_precision, module, accelerator)

    def begin(self, optimizer: Any, decay: float) -> None:
        """optimizer: what `accelerator.prepare` returned."""
        self.parameters, self.optimizer = self.task.trainable(), optimizer
        self.ema = EMAModel(self.parameters, decay=decay, foreach=True)

    def average(self) -> None:
        """Move the average on by a step."""
        self.ema.step(self.parameters)

    @contextmanager
    def shown(self, *, averaged: bool) -> Iterator[nn.Module | None]:
        """The task in eval mode with the averaged weights in it, or the trained ones, inside the block. Sharded, only the first
        process gets one, and every process must enter."""
        with torch.no_grad():
            if self.sharded:
                yield from self._shown_whole(averaged)
            else:
                yield from self._shown_here(averaged)

    def _shown_here(self, averaged: bool) -> Iterator[nn.Module]:
        was_training = self.task.training
        if averaged:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        self.task.eval()
        try:
            yield self.task
        finally:
            self.task.train(was_training)
            if averaged:
                self.ema.restore(self.parameters)

    def _shown_whole(self, averaged: bool) -> Iterator[nn.Module | None]:
        for index, tensor in enumerate(self.ema.shadow_params if averaged else self.parameters):
            gathered = whole(tensor)  # by all processes
            if self._whole is not None:
                self._whole.trainable()[index].copy_(gathered)
        if self._whole is None:
            yield None
            return
        device = self.accelerator.device
        try:
            yield self._whole.to(device).eval()
        finally:
            self._whole.to("cpu")

    def save(self, path: Path, training: dict[str, Any]) -> None:
        """Write the averaged weights to `path`, the trained ones to `last/` beside it, each a checkpoint by itself."""
        last = path.parent / "last" / path.name
        if self.accelerator.is_main_process:
            last.parent.mkdir(exist_ok=True)
        for averaged, place in ((True, path), (False, last)):
            with self.shown(averaged=averaged) as task:
                if task is not None and self.accelerator.is_main_process:
                    task.save(place, {**training, "weights": "averaged" if averaged else "last"})
