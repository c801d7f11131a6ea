"""Time and peak memory of the conditional decode, whole and tiled, as ratios to plain AutoencoderKL encode + decode.

    python -m diffharmony.applications.benchmarks decode --out out/bench.json
    python -m diffharmony.applications.benchmarks decode --sizes --full-sizes 256 512 1024 2048 4096 --tile 512 --out out/full.json

All variants of a size take turns in one process, with random weights; a time is the median of `repeats` runs, and its ratio is to the
reference that the table names. Peak memory is that of one run beyond what was held before it, in a process of its own that has decoded
something small: on CUDA by PyTorch's allocator, on Linux by the kernel's high-water mark of resident memory (reset before the run, freed
memory given back first); elsewhere it is not measured. Of sizes above `turns_up_to` that run gives the time too. float32.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ._main import run_benchmark

REFERENCE, CONDITIONAL = "plain encode + decode", "encode_condition + decode"
CONFIGS = {
    "tiny": dict(block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8),
    "sd": dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2),
}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WARM = 64  # pixels


@dataclass(frozen=True)
class DecodeBenchmark:
    """Time and peak memory of the conditional decode, whole and tiled, beside plain encode + decode."""

    sizes: tuple[int, ...] = (128, 256, 512)
    """Sides of the image for the tiny family's architecture."""
    full_sizes: tuple[int, ...] = ()
    """Sides of the image for Stable Diffusion's architecture (256 px: 4 GB of memory; 2048 px as a whole: 35 GB)."""
    full_size: bool = False
    """Measure Stable Diffusion's architecture as well, at 256 px: the former name of --full-sizes 256."""
    tile: int = 128
    """Side of a tile in image pixels; larger images have tiles of half their side where that is less."""
    latents: int = 10
    """Latents that are decoded under one condition, at sizes of up to `latents_up_to`."""
    latents_up_to: int = 256
    """Largest side at which many latents are decoded under one condition."""
    whole_up_to: int = 2048
    """Largest side that is decoded as a whole."""
    turns_up_to: int = 1024
    """Largest side that is timed in turns."""
    repeats: int = 5
    """Timed runs of each variant, after one that is not timed."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


class Case(NamedTuple):
    """What the variants of one size are made of, in any process. tile: of the tiled ones."""

    model: str
    size: int
    tile: int
    latents: int
    device: str


class Variant(NamedTuple):
    """reference: the variant that its ratios are to."""

    run: Callable[[], Any]
    reference: str
    whole: bool = True


def run(config: DecodeBenchmark) -> list[dict[str, Any]]:
    """Returns: per size a dict {"model", "size", "tile", "feature_bytes", "variants": {name: {"reference", "time_ratio", "memory_ratio",
    "seconds", "peak_bytes"}}}; what was not measured is None.

    Raises: ValueError for sizes, tile or repeats that do not fit.
    """
    from tqdm import tqdm

    for name in ("repeats", "latents"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}. Leave it out for the default.")
    full_sizes = config.full_sizes or ((256,) if config.full_size else ())
    results = []
    for model, sizes in (("tiny", config.sizes), ("sd", full_sizes)):
        for size in tqdm(sizes, desc=f"Benchmark of {model}", file=sys.stderr):
            case = Case(model, size, min(config.tile, size), config.latents if size <= config.latents_up_to else 0, config.device)
            results.append(_measure_case(case, config))
    return results


def _measure_case(case: Case, config: DecodeBenchmark) -> dict[str, Any]:
    import torch

    models = _models(case)
    variants = {name: variant for name, variant in _variants(case, *models).items() if case.size <= config.whole_up_to or not variant.whole}
    with torch.inference_mode():
        features = _feature_bytes(models[1], case)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range((config.repeats + 1) * (case.size <= config.turns_up_to)):
            for name, variant in variants.items():
                taken = _seconds(variant.run, case.device)
                if turn:
                    seconds[name].append(taken)
    del models
    alone = {name: _alone(case, name) for name in variants}
    times = {name: statistics.median(taken) if taken else alone[name][0] for name, taken in seconds.items()}
    peaks = {name: peak for name, (_, peak) in alone.items()}
    rows = {
        name: {
            "reference": variant.reference, "time_ratio": _ratio(times, name, variant.reference),
            "memory_ratio": _ratio(peaks, name, variant.reference), "seconds": times[name], "peak_bytes": peaks[name],
        }
        for name, variant in variants.items()
    }  # fmt: skip
    return {"model": case.model, "size": case.size, "tile": case.tile, "feature_bytes": features, "variants": rows}


def _ratio(values: dict[str, float | None], name: str, reference: str) -> float | None:
    return values[name] / values[reference] if values.get(name) and values.get(reference) else None


def made_up(model: str, device: str = "cpu"):
    """A plain AutoencoderKL with random weights, and a HarmonyVAE of it whose condition counts."""
    import torch
    from diffusers import AutoencoderKL

    from ...harmony_vae import HarmonyVAE

    torch.manual_seed(0)
    settings = CONFIGS[model]
    levels = len(settings["block_out_channels"])
    plain = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **settings)
    plain = plain.eval().to(device)
    return plain, HarmonyVAE.from_autoencoder_kl(plain, "random", torch.Generator().manual_seed(0)).eval()


def blend_tiles(plain, tile: int):
    """diffusers' own tiling, which blends overlapping tiles, switched on with tiles of that many pixels. Returns: plain."""
    plain.enable_tiling()
    plain.tile_sample_min_size, plain.tile_latent_min_size = tile, tile // 2 ** (len(plain.config.block_out_channels) - 1)
    return plain


def _models(case: Case) -> tuple[Any, Any, Any]:
    """A plain VAE, a HarmonyVAE, and the plain one's weights in a VAE that blends tiles."""
    import torch
    from diffusers import AutoencoderKL

    plain, vae = made_up(case.model, case.device)
    with torch.device("meta"):
        blended = AutoencoderKL.from_config(plain.config)
    blended.load_state_dict(plain.state_dict(), assign=True)
    return plain, vae, blend_tiles(blended.eval(), case.tile)


def _variants(case: Case, plain, vae, blended) -> dict[str, Variant]:
    import torch

    image = torch.rand(1, 3, case.size, case.size, device=case.device) * 2 - 1
    mask = (torch.rand(1, 1, case.size, case.size, device=case.device) < 0.5).float()
    latents = torch.randn(max(1, case.latents), 4, case.size // 8, case.size // 8, device=case.device)
    z = latents[:1]

    def decode_all() -> None:
        condition = vae.encode_condition(image, mask)
        for latent in latents.split(1):
            vae.decode(latent, condition)

    def decode_all_plainly() -> None:
        plain.encode(image)
        for latent in latents.split(1):
            plain.decode(latent)

    variants = {
        REFERENCE: Variant(lambda: plain.decode(plain.encode(image).latent_dist.mode()), REFERENCE),
        "plain decode": Variant(lambda: plain.decode(z), REFERENCE),
        CONDITIONAL: Variant(lambda: vae.decode(z, vae.encode_condition(image, mask)), REFERENCE),
        "blended encode + decode (diffusers)": Variant(lambda: blended.decode(blended.encode(image).latent_dist.mode()), REFERENCE, whole=False),
        "exact tiles": Variant(lambda: vae.decode_tiled(z, image, mask, case.tile), CONDITIONAL, whole=False),
        "bounded tiles": Variant(lambda: vae.decode_tiled(z, image, mask, case.tile, "bounded"), CONDITIONAL, whole=False),
    }
    if case.latents > 1:
        reference = f"plain encode, {case.latents} decodes"
        variants[reference] = Variant(decode_all_plainly, reference)
        variants[f"{case.latents} latents, one condition"] = Variant(decode_all, reference)
    return variants


def _feature_bytes(vae, case: Case) -> int:
    """Of a condition's skip features."""
    import torch

    blank = torch.zeros(1, 4, WARM, WARM, device=case.device)
    condition = vae.encode_condition(blank[:, :3], blank[:, 3:])
    return sum(feature.nbytes for feature in (*condition.skip_features, condition.mid_skip_feature)) * case.size**2 // WARM**2


def _alone(case: Case, name: str) -> tuple[float, int | None]:
    """Seconds and peak of one run in a process of its own, forked from one that has only imported what it needs, where there is such."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["diffusers.models.autoencoders.autoencoder_kl", f"{__package__.split('.')[0]}.harmony_vae"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measured_here, case, name).result()


def _measured_here(case: Case, name: str) -> tuple[float, int | None]:
    import torch

    models = _models(case)
    with torch.inference_mode():
        _variants(case._replace(size=WARM), *models)[name].run()
        run = _variants(case, *models)[name].run
        taken = 0.0

        def timed() -> None:
            nonlocal taken
            taken = _seconds(run, case.device)

        peak = _peak(timed, case.device)
    return taken, peak


def _seconds(variant: Callable[[], Any], device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    variant()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(variant: Callable[[], Any], device: str) -> int | None:
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


def rows(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of all variants: ratios to the references, and the peak beyond weights and images."""
    from ...evaluation.tables import number

    header = ["", "variant", "time ×", "peak memory ×", "of", "peak, GiB"]
    return header, [
        [f"{case['model']} {case['size']} px", name, number(row["time_ratio"]), number(row["memory_ratio"]), row["reference"],
         number(row["peak_bytes"] and row["peak_bytes"] / 2**30)]
        for case in results
        for name, row in case["variants"].items()
    ]  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """Ratios to the references as text, times being medians."""
    from ...evaluation.tables import text_table

    return text_table(*rows(results))


def main() -> None:
    run_benchmark(DecodeBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
