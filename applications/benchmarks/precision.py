"""What half precision costs a conditional decode: its PSNR against float32.

    python -m diffharmony.applications.benchmarks precision --out out/precision.json
    python -m diffharmony.applications.benchmarks precision --full-size --device cuda

Decoded is the demo's photograph, its latent and condition encoded in the same precision: by the tiny family, and where asked by random
weights of Stable Diffusion's architecture.
"""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._main import run_benchmark
from .seams import models_of, photograph

DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class PrecisionBenchmark:
    """PSNR of a conditional decode in half precision against float32."""

    size: int = 512
    """Side of the photograph in pixels."""
    full_size: bool = False
    """Measure Stable Diffusion's architecture as well."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: PrecisionBenchmark) -> list[dict[str, Any]]:
    """Returns: per model a dict {"model", "size", "psnr": {dtype: dB, or None where the result is not finite}}."""
    import torch
    from tqdm import tqdm

    results = []
    for model in tqdm(("tiny", "sd") if config.full_size else ("tiny",), desc="Precision", file=sys.stderr):
        _, vae = models_of(model, config.device)
        image, mask = photograph(config.size, config.device)
        with torch.inference_mode():
            decoded = {name: _decoded(copy.deepcopy(vae).to(getattr(torch, name)), image, mask) for name in ("float32", *DTYPES)}
        results.append({"model": model, "size": config.size, "psnr": {name: _psnr(decoded[name], decoded["float32"]) for name in DTYPES}})
    return results


def _decoded(vae, image, mask):
    image, mask = image.to(vae.dtype), mask.to(vae.dtype)
    z = vae.encode(image).latent_dist.mode()
    return vae.decode(z, vae.encode_condition(image, mask)).sample.float().clamp(-1, 1)


def _psnr(found, expected) -> float | None:
    if not found.isfinite().all():
        return None
    error = (found - expected).square().mean().item() / 4  # of a range of 2
    return -10 * math.log10(error) if error else math.inf


def rows(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table."""
    from ...evaluation.tables import number

    lines = [[f"{case['model']} {case['size']} px", *(number(case["psnr"][name], 1) for name in DTYPES)] for case in results]
    return ["PSNR against float32, dB", *DTYPES], lines


def table(results: list[dict[str, Any]]) -> str:
    """PSNR as text."""
    from ...evaluation.tables import text_table

    return text_table(*rows(results))


def main() -> None:
    run_benchmark(PrecisionBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
