"""What a run says while it runs: log.jsonl, a curve, trackers, sample sheets; and its check that losses are finite."""

from __future__ import annotations

import json
import logging
import math
import secrets
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ...common.files import not_written, written_whole
from ..config import RunConfig
from .curves import draw_curve, smoothed

logger = logging.getLogger("diffharmony")


class Losses:
    """Losses that have not been looked at yet: looking makes a GPU wait, and processes wait for one another."""

    def __init__(self, accelerator: Accelerator, accumulation: int):
        self.accelerator, self.accumulation = accelerator, accumulation
        self._losses: list[torch.Tensor] = []
        self._names: list[list[str]] = []
        self._steps: list[tuple[int, float]] = []

    def add(self, loss: torch.Tensor, names: list[str]) -> None:
        """The loss of one part, a scalar tensor, and the names of its images."""
        self._losses.append(loss.detach().float())
        self._names.append(list(names))

    def end_step(self, step: int, learning_rate: float) -> None:
        self._steps.append((step, learning_rate))

    def take(self) -> list[tuple[int, float, float]]:
        """(step, mean loss over parts and processes, learning rate) of every step since the last call.

        Raises: FloatingPointError, in every process, when a loss is not finite, with the names of that step's images.
        """
        if not self._steps:
            return []
        parts = self.accelerator.gather(torch.stack(self._losses)[None]).cpu().view(-1, len(self._steps), self.accumulation)
        names, steps = self._names, self._steps
        self._losses, self._names, self._steps = [], [], []
        finite = torch.isfinite(parts).all(2).all(0)
        if not finite.all():
            index = int(finite.int().argmin())
            wrong = parts[:, index][~torch.isfinite(parts[:, index])][0].item()
            own = torch.isfinite(parts[self.accelerator.process_index, index])
            mine = [name for part, fine in enumerate(own) if not fine for name in names[index * self.accumulation + part]]
            raise FloatingPointError(
                f"loss must be finite, got {wrong} at step {steps[index][0]} for {', '.join(gather_object(mine))}. "
                "Look at these images, or lower optim.learning-rate; the last state is kept."
            )
        means = parts.mean(dim=(0, 2)).tolist()
        return [(step, mean, learning_rate) for (step, learning_rate), mean in zip(steps, means)]


class Overflows:
    """Steps that were not taken because gradients overflowed fp16 under the scale of the loss. A few are that scale finding its
    place; it then halves with each."""

    PATIENCE = 50  # from 65536, a scale of 6e-11: no smaller one will help

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self._in_a_row = accelerator, 0

    def skipped(self, step: int) -> bool:
        """Whether this step was not taken. Raises: FloatingPointError when so many in a row were not, in every process."""
        if not self.accelerator.optimizer_step_was_skipped:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row >= self.PATIENCE:
            raise FloatingPointError(
                f"gradients must be finite, got an overflow in {self._in_a_row} steps in a row, up to step {step}. Lower "
                "optim.learning-rate, or pass --run.mixed-precision bf16; the last state is kept."
            )
        return True


class RunLog:
    """One JSON line a step and a validation, the trackers, and a smoothed loss. Only the first process writes."""

    def __init__(self, run: RunConfig, accelerator: Accelerator, step: int):
        self.out, self.accelerator = run.out, accelerator
        self.path = run.out / "log.jsonl"
        self.smooth = math.nan
        if accelerator.is_main_process and self.path.is_file():
            rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            self.smooth = ([math.nan] + smoothed([row["loss"] for row in rows if "loss" in row]))[-1]
        if run.tracker == "tensorboard":
            # what a killed run showed of the steps that are run again is dropped
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": step + 1}})
        elif run.tracker == "wandb":
            settings = {"id": self._wandb_id(), "resume": "allow", "name": run.out.name, "dir": str(run.out)}
            accelerator.init_trackers("diffharmony", init_kwargs={"wandb": settings})

    def steps(self, rows: list[tuple[int, float, float]]) -> None:
        """Rows as `Losses.take` gives them."""
        for step, loss, learning_rate in rows:
            self.smooth = smoothed([loss], self.smooth)[-1]
            self.accelerator.log({"loss": loss, "learning_rate": learning_rate}, step=step)
        self._write([{"step": step, "loss": loss, "learning_rate": rate} for step, loss, rate in rows])

    def validation(self, step: int, values: dict[str, float]) -> None:
        named = {f"validation_{name}": value for name, value in values.items()}
        self.accelerator.log(named, step=step)
        self._write([{"step": step, **named}])
        if self.accelerator.is_main_process:
            logger.info("validation at step %d: %s", step, ", ".join(f"{name} {value:.5g}" for name, value in values.items()))

    def sheet(self, step: int, picture: torch.Tensor) -> None:
        """Write a picture [3,H,W] in [-1,1] to samples/, show it in the trackers, and draw the curve anew."""
        from torchvision.utils import save_image

        path = self.out / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        picture = picture.float().cpu().clamp(-1, 1)
        with written_whole(path) as temporary:
            save_image(picture, temporary, normalize=True, value_range=(-1, 1))
        pixels = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()  # CHW -> HWC
        for tracker in self.accelerator.trackers:
            extra = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": pixels[None]}, step=step, **extra)
        draw_curve(self.path, self.out / "loss.png")

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.accelerator.is_main_process and rows:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in rows))
            except OSError as error:
                raise not_written(self.path, error.strerror) from error

    def _wandb_id(self) -> str | None:
        """The name that wandb knows this folder's run by, so that a killed one goes on there too."""
        if not self.accelerator.is_main_process:
            return None
        path = self.out / "wandb-id.txt"
        if not path.is_file():
            with written_whole(path) as temporary:
                temporary.write_text(secrets.token_hex(8), encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()
