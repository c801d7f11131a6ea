"""Time and memory of the conditional decode, beside a plain decode of the same latents in the same process.

    .venv/bin/python -m diffharmony.benchmarks.conditional_decode [--vae FILE] [--sizes 256 512] [--runs 5]

Plain: encode + decode, what a latent harmonizer needs in any case. Conditional: the same and encode_condition, once whole and once in
tiles. Medians of several runs, alternating; ratios are what to quote, since absolute times belong to the machine. Memory is the GPU's
peak, and not measured on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny" / "harmony_vae.safetensors"


def ways(vae: HarmonyVAE, size: int) -> dict[str, Callable[[], torch.Tensor]]:
    """What is compared, on one image of `size` x `size` pixels."""
    generator = torch.Generator().manual_seed(0)
    image = (torch.rand(1, 3, size, size, generator=generator) * 2 - 1).to(vae.device, vae.dtype)
    mask = torch.zeros(1, 1, size, size, device=vae.device, dtype=vae.dtype)
    mask[..., size // 4 : size // 2, size // 4 : size // 2] = 1

    def encode() -> torch.Tensor:
        return vae.encode(image).latent_dist.mode()

    return {
        "plain": lambda: vae.decode(encode()).sample,
        "conditional": lambda: vae.decode(encode(), vae.encode_condition(image, mask)).sample,
        "conditional, tiled": lambda: vae.decode_tiled(encode(), image, mask, tile=size // 2).sample,
    }


@torch.inference_mode()
def measure(compared: dict[str, Callable[[], torch.Tensor]], runs: int) -> dict[str, tuple[float, float | None]]:
    """Median seconds, and the peak of the GPU's memory in MiB, by name. One run more is made first and not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    peaks: dict[str, float | None] = {}
    for run in range(runs + 1):
        for name, call in compared.items():
            elapsed, peaks[name] = _timed(call)
            if run:
                seconds[name].append(elapsed)
    return {name: (statistics.median(values), peaks[name]) for name, values in seconds.items()}


def _timed(call: Callable[[], torch.Tensor]) -> tuple[float, float | None]:
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started, torch.cuda.max_memory_allocated() / 2**20 if gpu else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=TINY)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = load_harmony_vae(arguments.vae).to(device)
    print(f"{arguments.vae.name} on {device}, medians of {arguments.runs} runs\n{'size':>6}  {'':20}{'time':>10}{'ratio':>8}{'memory':>12}{'ratio':>8}")
    for size in arguments.sizes:
        measured = measure(ways(vae, size), arguments.runs)
        base_seconds, base_peak = measured["plain"]
        for name, (seconds, peak) in measured.items():
            memory = f"{peak:8.0f} MiB{peak / base_peak:8.2f}" if peak is not None else f"{'-':>12}{'-':>8}"
            print(f"{size:6}  {name:20}{seconds * 1000:7.0f} ms{seconds / base_seconds:8.2f}{memory}")


if __name__ == "__main__":
    main()
