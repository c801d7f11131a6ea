"""Loss and PSNR on images that are not trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import default_collate
from tqdm.auto import tqdm

from .config import TrainingConfig
from .data.dataset import HarmonizationDataset
from .run.ema import Weights


class Validation:
    """The validation images of a run. Each is cut, and its noise drawn, the same way every time."""

    def __init__(self, dataset: HarmonizationDataset, count: int, batch_size: int):
        self.dataset, self.batch_size = dataset, batch_size
        count = min(count, len(dataset.pairs))
        self.indices = [index * len(dataset.pairs) // count for index in range(count)]

    def batches(self) -> list[list[int]]:
        return [self.indices[start : start + self.batch_size] for start in range(0, len(self.indices), self.batch_size)]

    def batch(self, indices: list[int]) -> dict[str, Any]:
        """A batch as tasks take it (train/data/batches.py), on the CPU."""
        return default_collate([self.dataset.view(index, np.random.default_rng((self.dataset.seed, 3, index))) for index in indices])


def validation_of(config: TrainingConfig) -> Validation | None:
    """The validation that `config` asks for: whole images of `run.validation_list` in each root that has it. Raises as the dataset
    does; FileNotFoundError when no root has it."""
    run, roots = config.run, config.data.roots
    if run.validation_list is None:
        return None
    # a path of its own names one file, whose images are the first root's
    holding = () if Path(run.validation_list).is_absolute() else tuple(root for root in roots if (root / run.validation_list).is_file())
    data = replace(
        config.data, roots=holding or roots[:1], weights=(), list_file=run.validation_list, list_files=(), sizes=(), min_crop=1.0,
        flip=False, on_bad_image="stop",
    )  # fmt: skip
    part = config.optim.batch_size // config.optim.accumulation
    return Validation(HarmonizationDataset(data, run.seed), run.validation_images, part)


def validate(validation: Validation, weights: Weights, accelerator: Accelerator) -> dict[str, float]:
    """Means over the validation images of the averaged weights' loss and of what the task measures; the same in every process.

    Each process takes a share of the images; the first takes all where weights are sharded.
    """
    batches = validation.batches()
    totals: dict[str, float] = {}
    with weights.shown(averaged=True) as task:
        if not weights.sharded:
            batches = batches[accelerator.process_index :: accelerator.num_processes]
        elif task is None:
            batches = []
        for indices in tqdm(batches, desc="validation", delay=2, leave=False, dynamic_ncols=True, disable=not accelerator.is_main_process):
            batch = validation.batch(indices)
            moved = {name: value.to(accelerator.device) if torch.is_tensor(value) and name != "seed" else value for name, value in batch.items()}
            found = {"loss": task(moved).expand(len(indices)), **task.measure(moved)}
            for name, values in found.items():
                totals[name] = totals.get(name, 0.0) + values.double().sum().item()
    shares = gather_object([totals])
    names = dict.fromkeys(name for share in shares for name in share)  # a process may have had no images
    return {name: sum(share.get(name, 0.0) for share in shares) / len(validation.indices) for name in names}


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each image, [B]. found, wanted: [B,3,H,W] in [-1,1]; found is cut off there."""
    error = (found.float().clamp(-1, 1) - wanted.float()).square().mean(dim=(1, 2, 3)) / 4
    return -10 * torch.log10(error.clamp(min=1e-10))
