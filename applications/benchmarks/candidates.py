"""Time of K candidates of one photograph, which share the encoders, as a ratio to K separate candidates.

    python -m diffharmony.applications.benchmarks.candidates --out out/candidates.json
    python -m diffharmony.applications.benchmarks.candidates --model tiny --size 128 --repeats 5

One call of generate_candidates with K seeds, and K calls with one, take turns candidate by candidate in one process, so that both see
the same load of the machine. The first candidate of the shared call is the one that pays for what is shared (both encoders, and on a CPU
the order of the UNet's weights); each separate call pays for its own. The results are compared bit for bit. Then the parts are timed by
themselves, medians of 3: the floor is what the ratio would be if nothing else cost time.

Time is taken by the wall clock and, on a CPU, also as the CPU time of this process, which other processes disturb less. At more than one
thread that counts threads that wait as well: set OMP_WAIT_POLICY=passive. Random weights, float32; "sd" is Stable Diffusion's
architecture (the Harmony-VAE's widths 128, 256, 512, 512 and the 9-channel UNet of 860 million parameters; 9 GB of memory).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ._main import run_benchmark
from .decode import CONFIGS, _synchronize

PART_RUNS = 3
CLOCKS = ("wall", "cpu")
SHARED = ("encode", "conditional encode", "order of weights")
UNETS = {
    "tiny": dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
                 down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
    "sd": dict(cross_attention_dim=768),
}  # fmt: skip


@dataclass(frozen=True)
class CandidatesBenchmark:
    """Time of K candidates of one photograph beside K separate ones."""

    model: Literal["sd", "tiny"] = "sd"
    """Architecture."""
    candidates: int = 10
    """K."""
    size: int = 256
    """Side of the photograph, in pixels."""
    steps: int = 5
    """Sampling steps."""
    repeats: int = 1
    """Turns of all K, after one candidate that is not timed."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: CandidatesBenchmark) -> dict[str, Any]:
    """Returns: {"model", "size", "candidates", "steps", "device", "threads", and per clock, "wall" and on a CPU "cpu": {"ratio", "floor",
    "shared" and "separate" (seconds per turn), "parts" {name: seconds}}}.

    Raises: ValueError for numbers that do not fit.
    """
    import torch
    from tqdm import tqdm

    from ...inverse import generate_candidates

    for name in ("candidates", "repeats"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}. Leave it out for the default.")
    vae, unet = _models(config)
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(1, 3, config.size, config.size, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, config.size, config.size)
    mask[..., config.size // 4 : config.size // 2, config.size // 4 : config.size // 2] = 1

    def make(seeds: list[int], progress: Callable[[int, int], None] | None = None) -> torch.Tensor:
        return generate_candidates(vae, unet, real, mask, seeds, steps=config.steps, progress=progress)

    turns = []
    with tqdm(total=2 * config.candidates * config.repeats + 1, desc="Benchmark", unit="candidate", file=sys.stderr) as bar:
        make([0])
        bar.update()
        for _ in range(config.repeats):
            turns.append(_Turns(make, config, bar))
            together = make(turns[-1].seeds, turns[-1].after)
            if not torch.equal(together, torch.cat(turns[-1].alone)):
                raise RuntimeError("candidates must be the same alone and together, got others. This is a defect: report it.")
    parts = _parts(vae, unet, real, mask, config)
    result = {name: getattr(config, name) for name in ("model", "size", "candidates", "steps", "device")}
    result["threads"] = torch.get_num_threads()
    for index, clock in enumerate(CLOCKS if config.device == "cpu" else ("wall",)):
        seconds = {name: values[index] for name, values in parts.items()}
        saved = sum(seconds[name] for name in SHARED) * (1 - 1 / config.candidates)
        result[clock] = {
            "ratio": statistics.median(turn.shared[index] / turn.separate[index] for turn in turns),
            "floor": 1 - saved / sum(seconds.values()),
            "shared": [turn.shared[index] for turn in turns], "separate": [turn.separate[index] for turn in turns], "parts": seconds,
        }  # fmt: skip
    return result


def _now(device: str) -> np.ndarray:
    """Both clocks, in seconds."""
    _synchronize(device)
    return np.array([time.perf_counter(), time.process_time()])


class _Turns:
    """After each candidate of the shared call, one by a call of its own; the time of each kind is added up apart."""

    def __init__(self, make: Callable, config: CandidatesBenchmark, bar):
        self._make, self._device, self._bar = make, config.device, bar
        self.seeds = list(range(1, config.candidates + 1))
        self.shared, self.separate = np.zeros(len(CLOCKS)), np.zeros(len(CLOCKS))
        self.alone: list[Any] = []
        self._started = _now(self._device)

    def after(self, done: int, total: int) -> None:
        between = _now(self._device)
        self.alone.append(self._make([self.seeds[done - 1]]))
        end = _now(self._device)
        self.shared += between - self._started
        self.separate += end - between
        self._bar.update(2)
        self._started = _now(self._device)


def _models(config: CandidatesBenchmark):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ...harmony_vae import HarmonyVAE

    settings = CONFIGS[config.model]
    levels = len(settings["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    torch.manual_seed(0)
    vae = HarmonyVAE.from_autoencoder_kl(AutoencoderKL(**settings, **blocks)).eval()
    # 860 million parameters are made once, and not by PyTorch's own slow start
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=9, out_channels=4, attention_head_dim=8, **UNETS[config.model])
    unet = unet.to_empty(device=config.device).eval().requires_grad_(False)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    unet.empty_prompt_embeds = torch.randn(1, 77, unet.config.cross_attention_dim)
    unet.prediction_type, unet.direction, vae.direction = "epsilon", "invert", "invert"
    return torch.nn.Module.to(vae, config.device), unet


def _parts(vae, unet, real, mask, config: CandidatesBenchmark) -> dict[str, list[float]]:
    """Seconds, by both clocks, of what one candidate is made of, each part by itself."""
    import torch

    from ...common.masks import mask_to_latent
    from ...diffusion import sample_generators, sample_latents
    from ...diffusion.prepacked import PrepackedConvolutions

    real, mask = real.to(config.device), mask.to(config.device)

    def seconds(call: Callable) -> np.ndarray:
        started = _now(config.device)
        call()
        return _now(config.device) - started

    with torch.no_grad():
        latent = vae.encode(real).latent_dist.mode()
        condition = vae.encode_condition(real, mask)
        small = mask_to_latent(mask, latent.shape[-2:])

        def sample(steps: int = config.steps) -> None:
            sample_latents(unet, latent, small, steps=steps, generator=sample_generators(0, 1))

        def packing() -> np.ndarray:
            with PrepackedConvolutions(unet):
                return seconds(lambda: sample(1)) - seconds(lambda: sample(1))

        with PrepackedConvolutions(unet):
            sample(1)
            measured = {f"UNet, {config.steps} steps": [seconds(sample) for _ in range(PART_RUNS)]}
        measured |= {
            "encode": [seconds(lambda: vae.encode(real)) for _ in range(PART_RUNS)],
            "conditional encode": [seconds(lambda: vae.encode_condition(real, mask)) for _ in range(PART_RUNS)],
            "order of weights": [packing() for _ in range(PART_RUNS)],
            "decode": [seconds(lambda: vae.decode(latent, condition)) for _ in range(PART_RUNS)],
        }
    return {name: np.maximum(np.median(values, axis=0), 0).tolist() for name, values in measured.items()}


def table(result: dict[str, Any]) -> str:
    """Shares of the parts of one candidate, and the ratio beside its floor, as text."""
    from ...evaluation.tables import number, text_table

    clocks = [clock for clock in CLOCKS if clock in result]
    names = result["wall"]["parts"]
    rows = [[name, *(number(result[clock]["parts"][name] / sum(result[clock]["parts"].values())) for clock in clocks)] for name in names]
    rows.append(["floor", *(number(result[clock]["floor"]) for clock in clocks)])
    title = f"{result['candidates']} candidates at once, to as many separate ones"
    rows.append([title, *(number(result[clock]["ratio"]) for clock in clocks)])
    return text_table([f"{result['model']} {result['size']} px", *(f"{clock} time ×" for clock in clocks)], rows)


def main() -> None:
    run_benchmark(CandidatesBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
