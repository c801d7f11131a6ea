"""Tensors that are whole in every process, or in parts that torch (FSDP 2) spread over them as DTensors.

What is whole is made by all processes together, so each of them must call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """What this process holds of a whole tensor that is spread as `parameter` is, on that one's device."""
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else tensor


def optimizer_state(optimizer: Any, keep: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """The optimizer's `state_dict()`, with `keep(whole tensor)` in the place of its tensors."""
    state = optimizer.state_dict()
    kept = {
        index: {name: keep(whole(value)) if torch.is_tensor(value) else value for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}


def load_optimizer(optimizer: Any, parameters: list[nn.Parameter], state: dict[str, Any]) -> None:
    """Load what `optimizer_state` gave, whichever way it was spread then."""
    parts = {
        index: {name: part(value, parameters[index]) if torch.is_tensor(value) and value.ndim else value for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})
