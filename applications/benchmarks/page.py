"""`make bench`: the benchmarks of the conditional decode, as docs/benchmarks.md with its plots.

    python -m diffharmony.applications.benchmarks page
    python -m diffharmony.applications.benchmarks page --full-sizes 256 512 1024 2048 4096 --full-repeats 5

Runs decode (tiny family and Stable Diffusion's architecture), seams and precision, and writes what they found: ratios to references of
the same run, and memory. Runs into `out`: benchmarks.md, benchmarks.png and benchmarks.json.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.assets import ROOT
from . import decode, precision, seams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED = {
    decode.REFERENCE: "plain", decode.CONDITIONAL: "conditional", "blended encode + decode (diffusers)": "blended", "exact tiles": "exact", "bounded tiles": "bounded"
}  # fmt: skip


@dataclass(frozen=True)
class PageBenchmark:
    """All benchmarks of the conditional decode, written as a page."""

    sizes: tuple[int, ...] = (128, 256, 512, 1024)
    """Sides of the image for the tiny family's architecture."""
    full_sizes: tuple[int, ...] = (256, 512)
    """Sides of the image for Stable Diffusion's architecture."""
    tile: int = 512
    """Side of a tile in pixels for Stable Diffusion's architecture; the tiny family's are a quarter of it."""
    repeats: int = 5
    """Timed runs for the tiny family's architecture."""
    full_repeats: int = 3
    """Timed runs for Stable Diffusion's."""
    latents_up_to: int = 256
    """Largest side at which ten latents are decoded under one condition."""
    whole_up_to: int = 2048
    """Largest side that is decoded as a whole."""
    turns_up_to: int = 512
    """Largest side that is timed in turns; above, one run is timed."""
    full_quality: bool = False
    """Measure seams and precision with Stable Diffusion's architecture as well."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path = ROOT / "docs"
    """Folder to write into."""


def run(config: PageBenchmark) -> dict[str, Any]:
    """Returns: what the page is made of: {"decode", "seams", "precision": as their `run`, "machine", "minutes"}."""
    import torch

    start = time.monotonic()
    shared = dict(device=config.device, latents_up_to=config.latents_up_to, whole_up_to=config.whole_up_to, turns_up_to=config.turns_up_to)
    tiny = decode.DecodeBenchmark(sizes=config.sizes, tile=max(32, config.tile // 4), repeats=config.repeats, **shared)
    full = decode.DecodeBenchmark(sizes=(), full_sizes=config.full_sizes, tile=config.tile, repeats=config.full_repeats, **shared)
    quality = dict(full_size=config.full_quality, device=config.device)
    results = {
        "decode": decode.run(tiny) + (decode.run(full) if config.full_sizes else []),
        "seams": seams.run(seams.SeamsBenchmark(**quality)),
        "precision": precision.run(precision.PrecisionBenchmark(**quality)),
    }
    machine = {"device": config.device, "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": platform.machine()}
    return {**results, "machine": machine, "minutes": (time.monotonic() - start) / 60}


def write_page(results: dict[str, Any], out: Path) -> None:
    """Write benchmarks.json, benchmarks.png and benchmarks.md into a folder."""
    from ...common.files import written_whole
    from ...common.plots import save_figure

    out.mkdir(parents=True, exist_ok=True)
    save_figure(plot(results["decode"]), out / "benchmarks.png")
    for name, text in (("benchmarks.json", json.dumps(results, indent=1) + "\n"), ("benchmarks.md", page(results))):
        with written_whole(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def page(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    from ...evaluation.tables import markdown_table

    machine = results["machine"]
    sections = [
        "# Benchmarks of the conditional decode",
        f"Written by `make bench` in {results['minutes']:.0f} minutes, on {machine['device']} ({machine['processor']}, {machine['threads']} thread(s), "
        f"torch {machine['torch']}), float32. *tiny* is the architecture of the bundled family, *sd* Stable Diffusion's, both with random weights. "
        "Times and memory are ratios to the named reference in the same run; memory is the peak beyond weights and images, of a process of its "
        "own. Bounded tiles go over the image twice (one refinement).",
        "![Time and peak memory against the image's side](benchmarks.png)",
        "## Time and memory", markdown_table(*decode.rows(results["decode"])),
        "## Against the bounds", markdown_table(*bounds(results["decode"])),
        "## Seams and colour shift", "Of the difference from the untiled decode, of 255, on the demo's photograph. *Seams* is the difference's step across "
        "tile borders over that elsewhere: 1 is no seam. *Colour shift* is the largest mean difference of a tile in one channel.",
        markdown_table(*seams.rows(results["seams"])),
        "## Half precision", markdown_table(*precision.rows(results["precision"])),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def bounds(cases: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What issue 12 asks of Stable Diffusion's architecture, beside what was found; a dash where that was not run."""
    found = {case["size"]: case for case in cases if case["model"] == "sd"}

    def of(size: int, variant: str, field: str) -> float | None:
        return found.get(size, {}).get("variants", {}).get(variant, {}).get(field)

    def over(first: float | None, second: float | None) -> float | None:
        return first / second if first and second else None

    lines = [[f"conditional decode over plain, {size} px, time", "1.06", of(size, decode.CONDITIONAL, "time_ratio")] for size in (256, 512)]
    lines += [["ten latents on one condition, time", "1.06", of(256, "10 latents, one condition", "time_ratio")]]
    lines += [[f"{name} tiles over untiled, 1024 px, time", most, of(1024, f"{name} tiles", "time_ratio")] for name, most in (("exact", "1.30"), ("bounded", "2.40"))]
    for size in sorted(found):
        plain, features = of(size, "plain decode", "peak_bytes"), found[size]["feature_bytes"]
        limit = plain and plain + features
        lines.append([f"untiled over plain decode + features, {size} px, memory", "1.10", over(of(size, decode.CONDITIONAL, "peak_bytes"), limit)])
    bounded = [of(size, "bounded tiles", "peak_bytes") for size in (2048, 4096)]
    lines += [
        ["exact tiles over untiled, 2048 px, memory", "0.40", of(2048, "exact tiles", "memory_ratio")],
        ["bounded tiles, 2048 px, GiB", "1.50", over(bounded[0], 2**30)],
        ["bounded tiles, 4096 over 2048 px, memory", "1.10", over(bounded[1], bounded[0])],
    ]
    from ...evaluation.tables import number

    return ["", "at most", "found"], [[name, most, number(value)] for name, most, value in lines]


def plot(cases: list[dict[str, Any]]) -> Figure:
    """Seconds per megapixel over those of the reference's smallest size, and peak memory, against the image's side."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(case["model"] for case in cases))
    figure = Figure(figsize=(4.6 * len(models), 6.4), layout="constrained")
    axes = figure.subplots(2, len(models), squeeze=False)
    for column, model in enumerate(models):
        of_model = [case for case in cases if case["model"] == model]
        base = next(case["variants"][decode.REFERENCE]["seconds"] for case in of_model if decode.REFERENCE in case["variants"])
        for row, (field, scale, label) in enumerate((("seconds", base, "time over plain at the smallest size"), ("peak_bytes", 2**30, "peak memory, GiB"))):
            axis = axes[row][column]
            for name, shown in PLOTTED.items():
                points = [(case["size"], case["variants"][name][field] / scale) for case in of_model if case["variants"].get(name, {}).get(field)]
                axis.plot(*zip(*points), marker="o", label=shown)
            axis.set(xscale="log", yscale="log", xlabel="side, px", ylabel=label, title=model)
            sides = [case["size"] for case in of_model]
            axis.set_xticks(sides, [str(side) for side in sides])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    return figure


def main() -> None:
    import tyro

    config = tyro.cli(PageBenchmark, description=__doc__)
    results = run(config)
    write_page(results, config.out)
    print(f"Wrote {config.out / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
