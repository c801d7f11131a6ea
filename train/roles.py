"""Which image conditions and which is the target: all that `direction` changes (SPEC §4)."""

from __future__ import annotations

import torch


def condition_and_target(batch: dict[str, torch.Tensor], direction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(condition image, target image), each [B,3,H,W]: (composite, real) to harmonize, (real, composite) to invert."""
    if direction == "harmonize":
        return batch["composite"], batch["real"]
    return batch["real"], batch["composite"]
