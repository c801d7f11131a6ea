"""Harmony classifier files: ours, the authors' `model_state_dict.pth`, ImageNet's ResNet-50, and what is refused."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..common.checkpoint import Checkpoint, load_strictly, read_checkpoint, refuse, require_kind, size_along, write_checkpoint
from ..common.weights.hub import local_path
from ..common.weights.layout import CLASSIFIER
from .model import CLASSES, RESNET50, HarmonyClassifier

KIND = "classifier"
WANTED = "a harmony classifier (of `diffharmony train-classifier`, or torchvision's resnet50 with fc of 2 outputs)"
TAKE_THESE = "Pass a file of `diffharmony train-classifier`, or the authors' model_state_dict.pth."
RESNET = "a ResNet-50 under torchvision's names (conv1.*, layer1.*, … layer4.*)"
COUNTERS = ".num_batches_tracked"  # older files have none


def save_harmony_classifier(
    classifier: HarmonyClassifier, path: str | os.PathLike, *, dtype: torch.dtype = torch.float16, training: dict[str, Any] | None = None
) -> None:
    """Write our single `.safetensors` file, batch statistics included, whole or not at all.

    dtype: float16 or float32. training: a JSON-able summary of how the weights came to be.
    Raises: ValueError for another model, dtype or suffix; FileNotFoundError when the folder does not exist.
    """
    if not isinstance(classifier, HarmonyClassifier):
        raise ValueError(f"classifier must be a HarmonyClassifier, got {type(classifier).__name__}. Load one with load_harmony_classifier.")
    write_checkpoint(path, classifier.state_dict(), kind=KIND, config=classifier.config, dtype=dtype, training=training)


def load_harmony_classifier(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> HarmonyClassifier:
    """Load a harmony classifier: our file, the authors' `model_state_dict.pth` (class 1 = unharmonious in both), or either on the Hub.

    Pickles are read with `weights_only=True`; one that wraps its state dict as {"state_dict": …} or {"model": …}, or every name with
    `module.`, is taken as well. The classifier comes in `dtype`, in eval mode, on the CPU.
    Raises: FileNotFoundError for no such file; ValueError for a damaged one, or one that is something else (what was expected, what
    was found, what to do). Source: SPEC §5.
    """
    checkpoint = read_checkpoint(local_path(path, CLASSIFIER))
    require_kind(checkpoint, (KIND,), WANTED, TAKE_THESE)
    if checkpoint.kind is None:
        return _from_torchvision(checkpoint, dtype)
    if checkpoint.config is None:
        raise ValueError(f"{checkpoint.path} must come with its config in its metadata, got none. Write it with save_harmony_classifier.")
    return load_strictly(lambda: HarmonyClassifier(**checkpoint.config), checkpoint.tensors, checkpoint.path, dtype)


def load_backbone(classifier: HarmonyClassifier, path: str | os.PathLike) -> None:
    """Give a classifier's ResNet-50 the weights of a file with torchvision's names, whatever its last layer's outputs are.

    Raises: FileNotFoundError, ValueError as `load_harmony_classifier`.
    """
    checkpoint = read_checkpoint(local_path(path, CLASSIFIER))
    if not _is_resnet50(checkpoint.tensors):
        found = f"another network's {len(checkpoint.tensors)} tensors"
        refuse(checkpoint, RESNET, "Pass torchvision's resnet50 weights, or timm's resnet50 of the same names.", found)
    backbone = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("fc.")}
    load_strictly(lambda: classifier.backbone, _with_counters(backbone, classifier.backbone), checkpoint.path).requires_grad_(False)


def _from_torchvision(checkpoint: Checkpoint, dtype: torch.dtype) -> HarmonyClassifier:
    tensors = checkpoint.tensors
    if not _is_resnet50(tensors) or "fc.weight" not in tensors:
        refuse(checkpoint, WANTED, TAKE_THESE, f"another network's {len(tensors)} tensors")
    outputs = size_along(tensors, "fc.weight", 0, checkpoint.path)
    if outputs != CLASSES:
        refuse(checkpoint, WANTED, TAKE_THESE, f"a ResNet-50 with {outputs} outputs")
    names = {name: f"probe.{name[3:]}" if name.startswith("fc.") else f"backbone.{name}" for name in tensors}

    def build() -> HarmonyClassifier:
        return HarmonyClassifier(RESNET50)

    renamed = {names[name]: tensor for name, tensor in tensors.items()}
    return load_strictly(build, _with_counters(renamed, build()), checkpoint.path, dtype)


def _with_counters(tensors: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors, with the model's own batch counters where the file has none: they change nothing outside of training."""
    return {**{name: value for name, value in model.state_dict().items() if name.endswith(COUNTERS)}, **tensors}


def _is_resnet50(tensors: dict[str, torch.Tensor]) -> bool:
    # layer3.5 and conv3 tell it from ResNet-18, 34, 101 and 152
    needed = {"conv1.weight", "bn1.running_mean", "layer1.0.conv3.weight", "layer3.5.conv3.weight", "layer4.2.conv3.weight"}
    return needed <= tensors.keys() and "layer3.6.conv1.weight" not in tensors
