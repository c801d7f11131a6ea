"""How far tiled decodes are from whole ones, whether their seams show, and whether colours shift: blended tiling beside exact and bounded tiles.

    python -m diffharmony.applications.benchmarks seams --out out/seams.json
    python -m diffharmony.applications.benchmarks seams --size 1024 --tile 256 --full-size

Decoded is the demo's photograph: by the tiny family, and where asked by random weights of Stable Diffusion's architecture. Plain tiling is
diffusers' own (AutoencoderKL.enable_tiling, compared with the plain whole decode); blended tiling under a condition is what anyone would
write: tiles that overlap by a quarter, each conditioned on its own part of the image, faded into each other. Figures are of 255.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.assets import ROOT, TINY
from ._main import run_benchmark
from .decode import blend_tiles, made_up

if TYPE_CHECKING:
    import torch

FIGURES = {"mean": "mean", "max": "max", "seams": "seams ×", "shift": "colour shift"}


@dataclass(frozen=True)
class SeamsBenchmark:
    """Difference from the whole decode, seams and colour shift of tiled decodes."""

    size: int = 512
    """Side of the photograph in pixels."""
    tile: int = 128
    """Side of a tile in pixels."""
    refinements: int = 3
    """Most passes of bounded tiles before the last."""
    full_size: bool = False
    """Measure Stable Diffusion's architecture as well."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    out: Path | None = None
    """JSON file to write; its folder is made where missing."""


def run(config: SeamsBenchmark) -> list[dict[str, Any]]:
    """Returns: per model a dict {"model", "size", "tile", "ways": {name: {"mean", "max", "seams", "shift"}}}.

    mean, max: of the absolute difference from the whole decode. seams: the difference's mean step across the tiles' borders, over that
    elsewhere. shift: the largest mean difference of a tile in one channel.
    """
    import torch
    from tqdm import tqdm

    results = []
    for model in tqdm(("tiny", "sd") if config.full_size else ("tiny",), desc="Seams", file=sys.stderr):
        with torch.inference_mode():
            ways = _ways(model, config)
        results.append({"model": model, "size": config.size, "tile": config.tile, "ways": ways})
    return results


def photograph(size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The demo's composite and mask as [1,3,s,s] in -1..1 and [1,1,s,s] in {0,1}."""
    from ...common.images import load_image, load_mask, resize_image, resize_mask

    demo = ROOT / "assets" / "demo"
    image = resize_image(load_image(demo / "composite.png"), (size, size))
    return image.to(device), (resize_mask(load_mask(demo / "mask.png"), (size, size)) >= 0.5).float().to(device)


def models_of(model: str, device: str):
    """The plain VAE and the HarmonyVAE: the tiny family's, or made up."""
    from diffusers import AutoencoderKL

    from ...harmony_vae import load_harmony_vae

    if model == "sd":
        return made_up("sd", device)
    vae = load_harmony_vae(TINY / "harmony_vae.safetensors").to(device).eval()
    plain = AutoencoderKL.from_config(vae.config).to(device).eval()
    plain.load_state_dict(vae.state_dict(), strict=False)
    return plain, vae


def _ways(model: str, config: SeamsBenchmark) -> dict[str, dict[str, float]]:
    plain, vae = models_of(model, config.device)
    image, mask = photograph(config.size, config.device)
    z = plain.encode(image).latent_dist.mode()
    whole, whole_plain = vae.decode(z, vae.encode_condition(image, mask)).sample, plain.decode(z).sample
    found = {
        "blended, plain (diffusers)": (blend_tiles(plain, config.tile).decode(z).sample, whole_plain),
        "blended, conditional": (blended(vae, z, image, mask, config.tile), whole),
        "exact": (vae.decode_tiled(z, image, mask, config.tile).sample, whole),
    }
    for passes in range(config.refinements + 1):
        found[f"bounded, {passes} refinements"] = vae.decode_tiled(z, image, mask, config.tile, "bounded", refinements=passes).sample, whole
    return {name: figures(*pair, config.tile) for name, pair in found.items()}


def blended(vae, z: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, tile: int) -> torch.Tensor:
    """Tiles that overlap by a quarter of `tile` pixels, each decoded as if it were the image, and faded into each other. z: [1,c,h,w]."""
    import torch

    factor, overlap = vae.spatial_factor, tile // 4
    near = torch.arange(tile, device=z.device) + 0.5
    ramp = torch.minimum(near, tile - near).div(overlap).clamp_max(1)
    fade = ramp[:, None] * ramp
    total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    for top, left in ((top, left) for top in _starts(image.shape[2], tile, overlap) for left in _starts(image.shape[3], tile, overlap)):
        place = (..., slice(top, top + tile), slice(left, left + tile))
        small = (..., slice(top // factor, (top + tile) // factor), slice(left // factor, (left + tile) // factor))
        total[place] += vae.decode(z[small], vae.encode_condition(image[place], mask[place])).sample * fade
        weights[place] += fade
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    return [*range(0, length - tile, tile - overlap), length - tile]


def figures(found: torch.Tensor, whole: torch.Tensor, tile: int) -> dict[str, float | None]:
    """Of images [1,3,s,s] in -1..1, see `run`; seams is None where no difference is left to have any."""
    import torch.nn.functional as F

    apart = (found - whole).float() * 127.5
    steps = [apart.diff(dim=dim).abs().movedim(dim, -1) for dim in (2, 3)]
    border = slice(tile - 1, None, tile)
    across = sum(step[..., border].mean().item() for step in steps) / 2
    elsewhere = sum((step.sum() - step[..., border].sum()).item() / (step.numel() - step[..., border].numel()) for step in steps) / 2
    return {
        "mean": apart.abs().mean().item(),
        "max": apart.abs().max().item(),
        "seams": across / elsewhere if elsewhere > 1e-3 else None,
        "shift": F.avg_pool2d(apart, tile, ceil_mode=True).abs().max().item(),
    }


def rows(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table."""
    from ...evaluation.tables import number

    return ["", "tiles", *FIGURES.values()], [
        [f"{case['model']} {case['size']} px, tiles of {case['tile']}", name, *(number(way[figure], 3) for figure in FIGURES)]
        for case in results
        for name, way in case["ways"].items()
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Differences of 255 as text."""
    from ...evaluation.tables import text_table

    return text_table(*rows(results))


def main() -> None:
    run_benchmark(SeamsBenchmark, run, table, __doc__)


if __name__ == "__main__":
    main()
