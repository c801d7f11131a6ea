"""Where a run's tensors are: whole in every process, or in parts that torch (FSDP 2) spread over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

Keep = Callable[[torch.Tensor], Any]


class Placement:
    """Parameters and optimizer as torch itself keeps them: whole in each process, or as DTensors.

    What is whole is made by all processes together, so each of them must call.
    """

    def __init__(self, parameters: list[nn.Parameter], optimizer: Any):
        self.parameters, self.optimizer = parameters, optimizer

    def held(self) -> list[torch.Tensor]:
        """What this process holds of each parameter, float32: the moving average is kept of these."""
        return self.parameters

    def shapes(self) -> list[list[int]]:
        """Of the whole parameters."""
        return [list(parameter.shape) for parameter in self.parameters]

    def whole(self, index: int, tensor: torch.Tensor) -> torch.Tensor:
        """The whole of a tensor that is spread as parameter `index` is."""
        tensor = tensor.detach()
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, index: int, whole: torch.Tensor) -> torch.Tensor:
        """What this process holds of a whole tensor, spread as parameter `index` is, on that one's device."""
        parameter = self.parameters[index]
        whole = whole.to(parameter.device)
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else whole

    def set_parameter(self, index: int, whole: torch.Tensor) -> None:
        with torch.no_grad():
            self.parameters[index].copy_(self.part(index, whole))

    def optimizer_state(self, keep: Keep) -> dict[str, Any]:
        """The optimizer's `state_dict()`, with `keep(whole tensor)` in the place of its tensors."""
        state = self.optimizer.state_dict()
        kept = {
            index: {name: keep(self.whole(index, value)) if torch.is_tensor(value) else value for name, value in values.items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": kept}

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Load what `optimizer_state` gave, whichever way it was spread then."""
        parts = {
            index: {name: self.part(index, value) if torch.is_tensor(value) and value.ndim else value for name, value in values.items()}
            for index, values in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": parts})
