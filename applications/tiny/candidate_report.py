"""What an inverse pair's candidates are worth: how they differ from each other and from the real image, and a picture of them.

    python -m diffharmony.applications.tiny.candidate_report --data .cache/tiny/test-256 --limit 30 --out out/candidates
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ...common.assets import TINY
from ...common.devices import find_device
from ...common.images import pil_to_mask, pil_to_tensor, read_mask, read_picture, save_image
from ...common.masks import binarize_mask
from ...common.run_folder import digest
from ...dataset.layout import TEST_LIST
from ...dataset.pairs import Pair, read_list
from ...diffusion.unet import load_unet
from ...harmony_vae import load_harmony_vae
from ...inverse.candidates import candidate_seed, generate_candidates
from ...inverse.distance import distances_from_real
from .report_command import run_report, write_report

SHOWN, SIDE = 6, 128


@dataclass(frozen=True)
class CandidateReport:
    """Make candidates of a list's real images, spread over the list, and measure them.

    Examples:
      python -m diffharmony.applications.tiny.candidate_report --data .cache/tiny/test-256 --limit 30 --out out/candidates
    """

    data: Path
    """Data set in iHarmony4's layout."""
    vae: Path = TINY / "inverse_harmony_vae.safetensors"
    """Inverse Harmony-VAE."""
    unet: Path = TINY / "inverse_unet.safetensors"
    """Inverse UNet."""
    list: str = TEST_LIST
    """List file in `data`."""
    limit: int | None = None
    """Only so many of the list's pairs."""
    candidates: int = 10
    """Candidates per pair, K."""
    steps: int = 5
    """Sampling steps."""
    size: int | Literal["native"] | None = None
    """Longer side to work at; see `diffharmony generate`."""
    seed: int = 0
    """Base seed."""
    out: Path | None = None
    """Folder to write report.json and candidates.png to; made where missing."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    json: bool = False
    """Print one JSON object as the last line."""


def measure_candidates(candidates: torch.Tensor, real: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Root mean squared differences inside the mask, of values 0..255: `from_real`, the mean over candidates, and `from_each_other`, the
    mean over their pairs; `outside`, the largest difference from the real image where the mask is 0.

    candidates: [K,3,H,W] with K >= 2, real: [1,3,H,W], -1..1. mask: [1,1,H,W] in 0..1.
    Raises: ValueError for shapes that do not fit, or one candidate alone.
    """
    if len(candidates) < 2:
        raise ValueError(f"candidates must be at least 2 to differ from each other, got {len(candidates)}. Make more.")
    from_real = distances_from_real(candidates, real, mask).sqrt()
    each = [
        distances_from_real(candidates[index + 1 :], candidates[index : index + 1], mask).sqrt() for index in range(len(candidates) - 1)
    ]
    outside = ((candidates - real).abs() * 127.5)[..., mask[0, 0] == 0]
    return {
        "from_real": from_real.mean().item(),
        "least_from_real": from_real.min().item(),
        "from_each_other": torch.cat(each).mean().item(),
        "outside": outside.max().item() if outside.numel() else 0.0,
    }


def make_report(config: CandidateReport) -> dict[str, Any]:
    """Make, measure, write the files where `out` says, and return what report.json holds. Raises: as the loaders do."""
    for name, least in (("candidates", 2), ("steps", 1), ("limit", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}. Give a larger number.")
    device = find_device(config.device)
    vae, unet = load_harmony_vae(config.vae).to(device), load_unet(config.unet).to(device)
    pairs = read_list(config.data, config.list)
    count = min(config.limit or len(pairs), len(pairs))
    chosen = [pairs[index * len(pairs) // count] for index in range(count)]
    rows, pictures = [], []
    for number, (pair, real, mask, candidates) in enumerate(_made(chosen, vae, unet, config)):
        rows.append({"pair": pair.mask.stem, **measure_candidates(candidates, real, mask)})
        if number % -(-count // SHOWN) == 0:
            pictures.append(torch.cat([real, binarize_mask(mask).expand_as(real) * 2 - 1, candidates]))
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("from_real", "from_each_other")}
    report = {
        "command": "candidate_report",
        "vae": digest(config.vae),
        "unet": digest(config.unet),
        "pairs": count,
        "candidates": config.candidates,
        "steps": config.steps,
        "size": config.size,
        **means,
        "ratio": means["from_each_other"] / means["from_real"],
        "mean_of_ratios": float(np.mean([row["from_each_other"] / row["from_real"] for row in rows])),
        "least_from_real": min(row["least_from_real"] for row in rows),
        "outside": max(row["outside"] for row in rows),
        "rows": rows,
    }
    if config.out is not None:
        write_report(config.out, report)
        save_image(_picture(pictures), config.out / "candidates.png")
    return report


def report_text(report: dict[str, Any]) -> str:
    """Lines for people."""
    return "\n".join([
        f"{report['candidates']} candidates of each of {report['pairs']} real images, {report['steps']} steps; "
        "differences of 0..255 inside the mask:",
        f"  from the real image      {report['from_real']:.2f} (the least of any candidate {report['least_from_real']:.2f})",
        f"  from each other          {report['from_each_other']:.2f}, {report['ratio']:.2f} x that "
        f"(mean of the images' ratios {report['mean_of_ratios']:.2f})",
        f"  outside the mask         {report['outside']:g} at most",
    ])  # fmt: skip


def _made(pairs: Sequence[Pair], vae, unet, config: CandidateReport) -> Iterable[tuple[Pair, torch.Tensor, torch.Tensor, torch.Tensor]]:
    for pair in tqdm(pairs, desc="candidates", unit="pair", dynamic_ncols=True):
        real, mask = pil_to_tensor(read_picture(pair.real)), pil_to_mask(read_mask(pair.mask))
        image, number = pair.mask.stem.rsplit("_", 1)
        seeds = [candidate_seed(config.seed, image, number, k) for k in range(1, config.candidates + 1)]
        yield pair, real, mask, generate_candidates(vae, unet, real, mask, seeds, steps=config.steps, size=config.size)


def _picture(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """A line per pair: real image, mask, candidates."""
    from torchvision.utils import make_grid

    small = [torch.nn.functional.interpolate(row, (SIDE, SIDE), mode="bilinear", antialias=True) for row in rows]
    return make_grid(torch.cat(small), nrow=len(rows[0]), pad_value=1.0)


if __name__ == "__main__":
    run_report(CandidateReport, make_report, report_text)
