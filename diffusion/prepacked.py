"""A model's convolutions with their weights in the order that the CPU's library (oneDNN) computes in.

PyTorch brings a convolution's weights into that order at every call. At the small sizes of a latent this takes longer than the deep
layers' own sums: a step of Stable Diffusion's UNet at 256 px spends a third of its time on it.
"""

from __future__ import annotations

import platform

import torch
from torch import nn


class PrepackedConvolutions:
    """A context manager: within it the model's 3x3 convolutions compute with packed weights, each packed at its first use and kept for
    later entries. Without gradients. Elsewhere than in float32 on an x86 CPU it changes nothing.

    Packed weights take as much memory again as the convolutions' own. They must not change while this object is used.
    Results are those of the model to rounding, and do not depend on what was computed before.
    """

    def __init__(self, model: nn.Module):
        self._convolutions = [_Packed(module) for module in model.modules() if _can_be_packed(module)] if _is_supported() else []
        self._before: list[list] = []

    def __enter__(self) -> PrepackedConvolutions:
        self._before.append([packed.convolution.__dict__.get("_conv_forward") for packed in self._convolutions])
        for packed in self._convolutions:
            packed.convolution._conv_forward = packed
        return self

    def __exit__(self, *_) -> None:
        for packed, before in zip(self._convolutions, self._before.pop()):
            if before is None:
                del packed.convolution._conv_forward
            else:
                packed.convolution._conv_forward = before


class _Packed:
    """In the place of a Conv2d's `_conv_forward`."""

    def __init__(self, convolution: nn.Conv2d):
        self.convolution = convolution
        self._options = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
        self._weight: torch.Tensor | None = None

    def __call__(self, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self._weight is None:
            self._weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.detach().to_mkldnn(), *self._options, list(image.shape))
        return torch.ops.mkldnn._convolution_pointwise(image, self._weight, bias, *self._options, "none", [], "")


def _is_supported() -> bool:
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _can_be_packed(module: nn.Module) -> bool:
    # a subclass may compute otherwise; 1x1 convolutions gain nothing
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    )
