"""The measured error floor of a UNet: never worse. Writes the UNet again with its working sizes and calibration, and the curve's picture.

    python -m diffharmony.applications.tiny.calibrate --unet unet.safetensors --data VALIDATION [MORE] --sizes 128 --out harmonization_unet.safetensors
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...common.assets import TINY
from ...common.checkpoint import read_checkpoint
from ...common.images import load_image, load_mask
from ...dataset.pairs import read_list
from ...diffusion.calibration import ALLOWED_WORSE, Record, draw_calibration, fit_calibration, share_worse
from ...diffusion.inference import harmonize
from ...diffusion.transfer import foreground_change
from ...diffusion.unet import load_unet, save_unet
from ...harmony_vae import load_harmony_vae

logger = logging.getLogger("diffharmony")


@dataclass(frozen=True)
class CalibrateConfig:
    """Measure a UNet's changes on validation composites that it was not trained on, at the settings that a user gets."""

    unet: Path
    """The UNet, a file of ours."""
    data: tuple[Path, ...]
    """Validation sets in iHarmony4's layout: composites of photographs that were not trained on, from no change to strong ones."""
    out: Path
    """File to write (.safetensors, float16); the curve lies beside it as .png, the records as .json."""
    sizes: tuple[int, ...]
    """Working sizes that it was trained at, the best first."""
    list: str = "IHD_test.txt"
    vae: Path = TINY / "harmony_vae.safetensors"
    steps: int = 1
    """Sampling steps that the file will name, and that are measured."""
    seed: int = 0
    """Composite i is sampled with seed + i."""
    allowed_worse: float = ALLOWED_WORSE
    """Share of all composites that may come out worse."""


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Returns: JSON-able, the share that comes out worse before and after, and the calibration."""
    vae, unet = load_harmony_vae(config.vae), load_unet(config.unet)
    unet.sizes, unet.calibration = config.sizes, None
    records = []
    for index, pair in enumerate(tqdm([pair for root in config.data for pair in read_list(root, config.list)], desc="Measuring", unit="image")):
        composite, real, mask = load_image(pair.composite), load_image(pair.real), load_mask(pair.mask)
        harmonized = harmonize(vae, unet, composite, mask, config.steps, config.seed + index, crop="auto")
        pairs = ((composite, harmonized), (composite, real), (harmonized, real))
        records.append(Record(*(float(foreground_change(before, after, mask)) for before, after in pairs)))
    calibration = fit_calibration(records, allowed_worse=config.allowed_worse)
    training = read_checkpoint(config.unet).training
    save_unet(unet, config.out, training=training, sizes=config.sizes, steps=config.steps, calibration=calibration, dtype=torch.float16)
    draw_calibration(records, calibration, config.out.with_suffix(".png"))
    config.out.with_suffix(".json").write_text(json.dumps([list(record) for record in records]) + "\n", encoding="utf-8")
    return {
        "worse_before": share_worse(records), "worse": share_worse(records, calibration), "calibration": json.loads(calibration.to_json()),
    }  # fmt: skip


if __name__ == "__main__":
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(json.dumps(calibrate(tyro.cli(CalibrateConfig))))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
