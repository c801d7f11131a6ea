"""Time and peak memory of the conditional decode, whole and tiled, as ratios to plain AutoencoderKL encode + decode.

    python -m diffharmony.applications.benchmarks --out out/bench.json
    python -m diffharmony.applications.benchmarks --full-size --repeats 3

All variants of a size run in turn in one process, with random weights; a time is the median of `repeats` runs. Peak memory
is that of one run beyond what was held before it: on CUDA by PyTorch's allocator, on Linux by the kernel's high-water mark
of resident memory (reset before the run, freed memory given back first); elsewhere it is not measured. float32.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._main import run_benchmark

if TYPE_CHECKING:
    import torch

REFERENCE = "plain encode + decode"
CONFIGS = {
    "tiny": dict(block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8),
    "sd": dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2),
}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class DecodeBenchmark:
    """Time and peak memory of the conditional decode, whole and tiled, beside plain encode + decode."""

    sizes: tuple[int, ...] = (128, 256, 512)
    """Sides of the image for the tiny family's architecture."""
    full_size: bool = False
    """Measure Stable Diffusion's architecture as well, at 256 px (4 GB of memory)."""
    tile: int = 128
    """Side of a tile in image pixels."""
    repeats: int = 5
    """Timed runs of each variant, after one that is not timed."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: DecodeBenchmark) -> list[dict[str, Any]]:
    """Returns: per size a dict {"model", "size", "variants": {name: {"time_ratio", "memory_ratio", "seconds", "peak_bytes"}}}.

    Raises: ValueError for sizes, tile or repeats that do not fit.
    """
    from tqdm import tqdm

    if config.repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {config.repeats}. 5 gives a steady median.")
    cases = [("tiny", size) for size in config.sizes] + ([("sd", 256)] if config.full_size else [])
    results = []
    with tqdm(total=len(cases), desc="Benchmark", file=sys.stderr) as bar:
        for model, size in cases:
            results.append({"model": model, "size": size, "variants": _measure_case(model, size, config)})
            bar.update()
    return results


def _measure_case(model: str, size: int, config: DecodeBenchmark) -> dict[str, dict[str, float | None]]:
    import torch
    from diffusers import AutoencoderKL

    from ...harmony_vae import HarmonyVAE

    torch.manual_seed(0)
    settings = CONFIGS[model]
    levels = len(settings["block_out_channels"])
    plain = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **settings)
    plain = plain.eval().to(config.device)
    vae = HarmonyVAE.from_autoencoder_kl(plain).eval()
    image = torch.rand(1, 3, size, size, device=config.device) * 2 - 1
    mask = (torch.rand(1, 1, size, size, device=config.device) < 0.5).float()
    variants: dict[str, Callable[[], torch.Tensor]] = {
        REFERENCE: lambda: plain.decode(plain.encode(image).latent_dist.mode()).sample,
        "encode_condition + decode": lambda: vae.decode(z, vae.encode_condition(image, mask)).sample,
        f"decode_tiled, tile {config.tile}": lambda: vae.decode_tiled(z, image, mask, tile=config.tile).sample,
    }
    with torch.inference_mode():
        z = plain.encode(image).latent_dist.mode()
        peaks = {name: (variant(), _peak(variant, config.device))[1] for name, variant in variants.items()}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(config.repeats):
            for name, variant in variants.items():
                seconds[name].append(_seconds(variant, config.device))
    times = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "time_ratio": times[name] / times[REFERENCE],
            "memory_ratio": peaks[name] / peaks[REFERENCE] if peaks[name] and peaks[REFERENCE] else None,
            "seconds": times[name],
            "peak_bytes": peaks[name],
        }
        for name in variants
    }


def _seconds(variant: Callable[[], torch.Tensor], device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    variant()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(variant: Callable[[], torch.Tensor], device: str) -> int | None:
    """Bytes that one run of the variant needs at its worst, beyond what is held already; None where it cannot be told."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        variant()
        return torch.cuda.max_memory_allocated() - held
    if device != "cpu" or not CLEAR.exists():
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")  # proc(5): sets the high-water mark to what is resident now
    except (AttributeError, OSError):
        return None
    held = _resident("VmRSS")
    variant()
    return _resident("VmHWM") - held


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def table(results: list[dict[str, Any]]) -> str:
    """Ratios to the reference as text, times being medians."""
    from ...evaluation.tables import number, text_table

    rows = [
        [f"{case['model']} {case['size']} px", name, number(row["time_ratio"]), number(row["memory_ratio"])]
        for case in results
        for name, row in case["variants"].items()
    ]
    return text_table(["", "variant", "time ×", "peak memory ×"], rows)


def main() -> None:
    run_benchmark(DecodeBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
