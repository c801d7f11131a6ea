"""Time of K candidates of one photograph, which share the encoders, as a ratio to K separate candidates.

    python -m diffharmony.benchmarks.candidates --out out/candidates.json
    python -m diffharmony.benchmarks.candidates --model tiny --size 128 --repeats 5

One call of generate_candidates with K seeds, and K calls with one, take turns candidate by candidate in one process, so that both see
the same load of the machine. The first candidate of the shared call is the one that pays for the encoders; each separate call pays for
its own. The results are compared bit for bit. Then the parts are timed by themselves, medians of 3: the floor is what the ratio would be
if nothing but the encoders were saved and nothing else cost time. Random weights, float32; "sd" is Stable Diffusion's architecture
(the Harmony-VAE's widths 128, 256, 512, 512 and the 9-channel UNet of 860 million parameters; 6 GB of memory).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ._main import run_benchmark
from .decode import CONFIGS, _seconds, _synchronize

PART_RUNS = 3
UNETS = {
    "tiny": dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                 up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
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
    """Returns: {"model", "size", "candidates", "ratio", "floor", "shared" and "separate" (seconds per turn), "parts" {name: seconds}, "threads"}.

    Raises: ValueError for numbers that do not fit.
    """
    import torch
    from tqdm import tqdm

    from ..inverse import generate_candidates

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

    shared, separate = [], []
    with tqdm(total=2 * config.candidates * config.repeats + 1, desc="Benchmark", unit="candidate", file=sys.stderr) as bar:
        make([0])
        bar.update()
        for _ in range(config.repeats):
            turns = _Turns(make, config, bar)
            together = make(turns.seeds, turns.after)
            if not torch.equal(together, torch.cat(turns.alone)):
                raise RuntimeError("candidates must be the same alone and together, got others. This is a defect: report it.")
            shared.append(turns.shared)
            separate.append(turns.separate)
    parts = _parts(vae, unet, real, mask, config)
    encoders = parts["encode"] + parts["conditional encode"]
    one = sum(parts.values())
    return {
        "model": config.model, "size": config.size, "candidates": config.candidates, "steps": config.steps, "device": config.device,
        "threads": torch.get_num_threads(), "ratio": statistics.median(map(float.__truediv__, shared, separate)),
        "floor": 1 - encoders * (1 - 1 / config.candidates) / one, "shared": shared, "separate": separate, "parts": parts,
    }  # fmt: skip


class _Turns:
    """After each candidate of the shared call, one by a call of its own; the time of each kind is added up apart."""

    def __init__(self, make: Callable, config: CandidatesBenchmark, bar):
        self._make, self._device, self._bar = make, config.device, bar
        self.seeds = list(range(1, config.candidates + 1))
        self.shared = self.separate = 0.0
        self.alone: list[Any] = []
        _synchronize(self._device)
        self._started = time.perf_counter()

    def after(self, done: int, total: int) -> None:
        _synchronize(self._device)
        self.shared += time.perf_counter() - self._started
        self.separate += _seconds(lambda: self.alone.append(self._make([self.seeds[done - 1]])), self._device)
        self._bar.update(2)
        self._started = time.perf_counter()


def _models(config: CandidatesBenchmark):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ..harmony_vae import HarmonyVAE

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


def _parts(vae, unet, real, mask, config: CandidatesBenchmark) -> dict[str, float]:
    """Seconds of what one candidate is made of, each part by itself."""
    import torch

    from ..common.masks import mask_to_latent
    from ..diffusion import sample_generators, sample_latents

    real, mask = real.to(config.device), mask.to(config.device)
    with torch.no_grad():
        latent = vae.encode(real).latent_dist.mode()
        condition = vae.encode_condition(real, mask)
        small = mask_to_latent(mask, latent.shape[-2:])
        calls = {
            "encode": lambda: vae.encode(real),
            "conditional encode": lambda: vae.encode_condition(real, mask),
            f"UNet, {config.steps} steps": lambda: sample_latents(unet, latent, small, steps=config.steps, generator=sample_generators(0, 1)),
            "decode": lambda: vae.decode(latent, condition),
        }
        return {name: statistics.median(_seconds(call, config.device) for _ in range(PART_RUNS)) for name, call in calls.items()}


def table(result: dict[str, Any]) -> str:
    """Shares of the parts of one candidate, and the ratio beside its floor, as text."""
    from ..evaluation.tables import number, text_table

    one = sum(result["parts"].values())
    rows = [[name, number(seconds / one)] for name, seconds in result["parts"].items()]
    title = f"{result['candidates']} candidates at once, to as many separate ones"
    return text_table(
        [f"{result['model']} {result['size']} px", "time ×"], [*rows, ["floor", number(result["floor"])], [title, number(result["ratio"])]]
    )


def main() -> None:
    run_benchmark(CandidatesBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
