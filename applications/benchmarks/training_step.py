"""Time of a Harmony-VAE training step in the training loop, as a ratio to the sum of its parts measured alone.

    python -m diffharmony.applications.benchmarks.training_step --out out/training_step.json
    python -m diffharmony.applications.benchmarks.training_step --device cuda --size 256 --batch-size 16

The step is the loop's own, from one batch asked for to the next: made floating, forward, backward, clipping, AdamW, EMA, log. The
parts: encode (E, no gradient), conditional encode (E_c), decode and loss, backward, optimizer (clipping, AdamW), EMA; each is
called by hand with the others' results at hand and timed by itself, on a model of its own. A step of the loop and one by hand take
turns; all figures are medians. Random weights of the tiny family's architecture, images from memory, float32.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._main import run_benchmark
from .decode import CONFIGS, _synchronize


@dataclass(frozen=True)
class TrainingStepBenchmark:
    """Time of a Harmony-VAE training step beside the sum of its parts."""

    size: int = 128
    """Side of the images."""
    batch_size: int = 4
    steps: int = 30
    """Timed steps, after one that is not timed."""
    device: str = "cpu"
    """Where to compute: cpu, cuda. The loop takes a GPU where there is one."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: TrainingStepBenchmark) -> dict[str, Any]:
    """Returns: {"ratio", "step" (seconds), "parts" {name: seconds}, "sum" (seconds)}.

    Raises: ValueError for numbers that do not fit.
    """
    import torch
    from tqdm import tqdm

    from ...common.devices import keep_freed_memory
    from ...train.config import OptimConfig, RunConfig
    from ...train.data.batches import to_float_batch
    from ...train.loop import fit
    from ...train.vae import HarmonyVAETask, HarmonyVAETraining

    if config.steps < 1:
        raise ValueError(f"steps must be at least 1, got {config.steps}. Leave it out for a steady median.")
    if (config.device == "cuda") != torch.cuda.is_available():
        raise ValueError(f"device must be the one that the loop takes, got {config.device}. Hide a GPU with CUDA_VISIBLE_DEVICES=.")
    if config.device == "cpu":
        keep_freed_memory()  # as the loop does
    vae, packed = _model(), _packed(config)
    by_hand = _Parts(copy.deepcopy(vae), packed, config.device)
    with tqdm(total=config.steps + 2, desc="Benchmark", unit="step") as bar, tempfile.TemporaryDirectory() as folder:
        turns = _Turns(packed, by_hand, bar)
        # the first step makes the optimizer's state, and the last one also draws and saves: neither is timed
        optim = OptimConfig(batch_size=config.batch_size, steps=config.steps + 2)
        run_config = RunConfig(out=Path(folder), save_every=10**9, sample_every=10**9)
        task = HarmonyVAETask(vae, HarmonyVAETraining(), to_float_batch(packed))
        with contextlib.redirect_stderr(io.StringIO()):
            fit(task, turns, optim=optim, run=run_config, workers=0, summary={})
    parts = {name: statistics.median(row[name] for row in turns.parts[1:-1]) for name in turns.parts[0]}
    step, total = statistics.median(turns.steps[1:]), sum(parts.values())
    return {"ratio": step / total, "step": step, "sum": total, "parts": parts}


def _model():
    import torch
    from diffusers import AutoencoderKL

    from ...harmony_vae import HarmonyVAE

    torch.manual_seed(0)
    levels = len(CONFIGS["tiny"]["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    plain = AutoencoderKL(**blocks, **CONFIGS["tiny"])
    return HarmonyVAE.from_autoencoder_kl(plain).train()


def _packed(config: TrainingStepBenchmark) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = config.batch_size, 3, config.size, config.size
    images = {name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for name in ("composite", "real")}
    mask = torch.randint(0, 2, (shape[0], 1, *shape[2:]), generator=generator, dtype=torch.uint8)
    names = [f"sample {index}" for index in range(config.batch_size)]
    return {**images, "mask": mask, "seed": torch.arange(config.batch_size), "name": names}


class _Turns:
    """A data set of one batch, in memory. Each time that the loop asks for it, its step before has ended and one by hand is taken."""

    def __init__(self, packed: dict[str, Any], by_hand: _Parts, bar):
        self._packed, self._by_hand, self._bar, self._started = packed, by_hand, bar, None
        self.steps: list[float] = []
        self.parts: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._packed["name"])

    def pack(self, counters: Iterable[int]) -> dict[str, Any]:
        _synchronize(self._by_hand.device)
        if self._started is not None:
            self.steps.append(time.perf_counter() - self._started)
        self.parts.append(self._by_hand.step())
        self._bar.update()
        self._started = time.perf_counter()
        return self._packed


class _Parts:
    """The step by hand, each part timed by itself."""

    def __init__(self, vae, packed: dict[str, Any], device: str):
        import torch
        from diffusers.training_utils import EMAModel

        from ...train.data.batches import to_float_batch

        self.vae, self.device, self.batch = vae.to(device), device, to_float_batch(packed, torch.device(device))
        self.parameters = vae.set_trainable()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, foreach=True)
        self.ema = EMAModel(self.parameters, decay=0.999)
        self.step()

    def step(self) -> dict[str, float]:
        import torch

        from ...train.losses import reconstruction_loss

        seconds: dict[str, float] = {}
        real, composite, mask = (self.batch[name] for name in ("real", "composite", "mask"))
        with self._timed("encode", seconds), torch.no_grad():
            latent = self.vae.encode(real).latent_dist.mode()
        with self._timed("conditional encode", seconds):
            condition = self.vae.encode_condition(composite, mask)
        with self._timed("decode", seconds):
            loss = reconstruction_loss(self.vae.decode(latent, condition).sample, real, mask, kind="squared")
        with self._timed("backward", seconds):
            loss.backward()
        with self._timed("optimizer", seconds):
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        with self._timed("EMA", seconds):
            self.ema.step(self.parameters)
        return seconds

    @contextlib.contextmanager
    def _timed(self, name: str, seconds: dict[str, float]):
        _synchronize(self.device)
        start = time.perf_counter()
        yield
        _synchronize(self.device)
        seconds[name] = time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """Shares of the parts, and the step's ratio to their sum, as text."""
    from ...evaluation.tables import number, text_table

    rows = [[name, number(seconds / result["sum"])] for name, seconds in result["parts"].items()]
    return text_table(["", "time ×"], [*rows, ["sum of the parts", "1.00"], ["training step", number(result["ratio"])]])


def main() -> None:
    run_benchmark(TrainingStepBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
