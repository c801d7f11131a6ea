"""How candidates are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..common.run_folder import digest
from ..diffusion.inference import Size
from ..diffusion.sampler import STEPS


@dataclass(frozen=True)
class Recipe:
    """How the candidates of a folder are made. threads: on a CPU. seed: the base seed, see `candidate_seed`."""

    vae: Path
    unet: Path
    steps: int = STEPS
    seed: int = 0
    size: Size = None
    suffix: str = ".png"
    device: torch.device = torch.device("cpu")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    threads: int = 1

    def described(self) -> dict[str, Any]:
        """All that decides over a candidate's bits, as JSON values: device and threads too, which take sums in another order."""
        return {
            "seed": self.seed, "steps": self.steps, "size": self.size, "vae": digest(self.vae), "unet": digest(self.unet),
            "suffix": self.suffix, "dtype": self.dtype, "device": self.device.type,
            "threads": self.threads if self.device.type == "cpu" else None,
        }  # fmt: skip
