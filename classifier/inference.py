"""The harmony classifier in use: how probable it is that an image is a composite (SPEC §5)."""

from __future__ import annotations

import torch

from ..common.masks import check_foreground
from .checkpoint import load_harmony_classifier, save_harmony_classifier
from .model import UNHARMONIOUS, HarmonyClassifier, masked_box

__all__ = ["HarmonyClassifier", "load_harmony_classifier", "masked_box", "save_harmony_classifier", "unharmonious_probability"]


@torch.no_grad()
def unharmonious_probability(
    classifier: HarmonyClassifier, images: torch.Tensor, mask: torch.Tensor | None = None, *,
    device: torch.device | str | None = None, batch_size: int = 32,
) -> torch.Tensor:  # fmt: skip
    """The probability that each image is a composite, [B] float32 on the CPU.

    images: [B, 3, H, W], floating, -1..1, any size. mask: [B or 1, 1, H, W], 0..1, for a classifier of masked regions. device: where to
    compute, and where the classifier then is; None: where it is. batch_size: images at once.
    Raises: ValueError for another shape or range, or for a mask that is missing or empty.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}. Choose 32, say.")
    if device is not None:
        classifier.to(device)
    place = next(classifier.parameters()).device
    if classifier.needs_mask and mask is not None:
        for index, one in enumerate(mask):
            check_foreground(one, "Leave that image out.", f"mask {index} of {len(mask)}")
    was_training = classifier.training
    classifier.eval()
    try:
        found = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            # one mask for all images stays one
            masks = None if mask is None else (mask if len(mask) == 1 else mask[part]).to(place)
            logits = classifier(images[part].to(place), masks)
            found.append(logits.float().softmax(dim=1)[:, UNHARMONIOUS].cpu())
    finally:
        classifier.train(was_training)
    return torch.cat(found) if found else torch.empty(0)
