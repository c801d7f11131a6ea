"""DeepSpeed's ZeRO: what it is told, and where it keeps weights (stage 3) and AdamW's state (stages 1 to 3)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from .config import OptimConfig, RunConfig
from .placement import Keep, Placement

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of a parameter's own shape
# what accelerate would derive from a language model's width
SIZES_LEFT_TO_DEEPSPEED = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")


def zero_wanted() -> bool:
    """Whether accelerate's configuration names DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def check_zero(run: RunConfig) -> None:
    """Raises: ValueError for what training with DeepSpeed does not go together with."""
    if find_spec("deepspeed") is None:
        raise ValueError("DeepSpeed must be installed when accelerate's configuration names it, got none. Install it: pip install deepspeed")
    if run.mixed_precision == "fp16":
        raise ValueError("run.mixed_precision must be no or bf16 with DeepSpeed, got fp16. Pass --run.mixed-precision bf16.")
    from accelerate.utils import DeepSpeedPlugin

    config = DeepSpeedPlugin().deepspeed_config
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise ValueError(f"DeepSpeed's configuration must have no section {section!r}, got one. Take it out: --optim.* say all of it.")
    for section in ("fp16", "bf16", "torch_autocast"):
        if str(config.get(section, {}).get("enabled", False)).lower() == "true":
            raise ValueError(
                f"DeepSpeed's configuration must not enable {section!r}, got it enabled. Take it out, and pass --run.mixed-precision bf16: "
                "weights then stay float32."
            )
    zero = config["zero_optimization"]
    if zero.get("mics_shard_size", -1) > 0:
        raise ValueError(f"DeepSpeed's mics_shard_size must be left out, got {zero['mics_shard_size']}. Weights are spread over all processes.")
    for name in ("offload_optimizer", "offload_param"):
        device = (zero.get(name) or {}).get("device") or "none"
        if str(device) != "none":
            raise ValueError(f"DeepSpeed's {name} must be off, got device {device}. Take it out, or use more processes or ZeRO stage 3.")


def zero_plugin(optim: OptimConfig, processes: int) -> Any:
    """accelerate's plugin for DeepSpeed: its own configuration, with batch, accumulation and clipping from ours."""
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    plugin.deepspeed_config.update(
        train_batch_size=optim.batch_size,
        train_micro_batch_size_per_gpu=optim.batch_size // optim.accumulation // processes,
        gradient_accumulation_steps=optim.accumulation,
        gradient_clipping=optim.gradient_clip,
    )
    zero = plugin.deepspeed_config["zero_optimization"]
    for name in SIZES_LEFT_TO_DEEPSPEED:
        if zero.get(name) == "auto":
            del zero[name]
    return plugin


def hide_from_transformers() -> None:
    """accelerate tells transformers of stage 3, and diffusers' average would then gather all weights at each step. Ours is one of parts."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


class ZeroOptimizer(Placement):
    """Stages 1 and 2: weights are whole in each process, AdamW's state is spread.

    zero: DeepSpeed's optimizer. torch's AdamW in it has flat pieces of all parameters for parameters.
    """

    def __init__(self, parameters, zero: Any):
        super().__init__(parameters, zero.optimizer)
        self.zero = zero

    def set_parameter(self, index: int, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        super().set_parameter(index, whole)
        safe_set_full_fp32_param(self.parameters[index], whole.to(self.parameters[index].device))

    def optimizer_state(self, keep: Keep) -> dict[str, Any]:
        steps = [values["step"] for values in self.optimizer.state.values()]
        state = {
            index: {"step": steps[0].clone(), **{name: keep(self._moment(index, name)) for name in MOMENTS}}
            for index in range(len(self.parameters))
            if steps
        }
        groups = [{**group, "params": list(range(len(self.parameters)))} for group in self.optimizer.param_groups]
        return {"state": state, "param_groups": groups}

    def load_optimizer(self, state: dict[str, Any]) -> None:
        for group, saved in zip(self.optimizer.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        if not state["state"]:
            return
        # DeepSpeed makes the moments at the first step; they are filled in before it
        for piece in self._pieces():
            self.optimizer.state[piece] = {
                "step": state["state"][0]["step"].clone(),
                **{name: torch.zeros_like(piece, requires_grad=False) for name in MOMENTS},
            }
        self._link()
        for index, values in state["state"].items():
            for name in MOMENTS:
                self._set_moment(index, name, values[name])

    def _pieces(self) -> list[torch.Tensor]:
        return self.zero.single_partition_of_fp32_groups

    def _link(self) -> None:
        self.zero._lazy_init_hp_params_optimizer_state()

    def _moment(self, index: int, name: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(self.parameters[index], name)

    def _set_moment(self, index: int, name: str, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        parameter = self.parameters[index]
        safe_set_full_optimizer_state(parameter, whole.to(parameter.device), name)


class ZeroShards(ZeroOptimizer):
    """Stage 3: weights are spread too. Each process holds a stretch of each flattened parameter, padded to equal lengths."""

    def held(self) -> list[torch.Tensor]:
        from deepspeed.utils import safe_get_local_fp32_param

        # views of what DeepSpeed steps; the average tells trainable tensors by their flag
        return [safe_get_local_fp32_param(parameter).detach().requires_grad_() for parameter in self.parameters]

    def shapes(self) -> list[list[int]]:
        return [list(parameter.ds_shape) for parameter in self.parameters]

    def whole(self, index: int, tensor: torch.Tensor) -> torch.Tensor:
        parameter, tensor = self.parameters[index], tensor.detach().contiguous()
        gathered = tensor.new_empty(tensor.numel() * torch.distributed.get_world_size())
        torch.distributed.all_gather_into_tensor(gathered, tensor)
        return gathered[: parameter.ds_numel].view(parameter.ds_shape)

    def part(self, index: int, whole: torch.Tensor) -> torch.Tensor:
        parameter = self.parameters[index]
        length, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
        padded = whole.new_zeros(length * torch.distributed.get_world_size())
        padded[: whole.numel()] = whole.flatten()
        return padded[length * rank : length * (rank + 1)].to(parameter.ds_tensor.device, copy=True)

    def set_parameter(self, index: int, whole: torch.Tensor) -> None:
        from deepspeed import zero
        from deepspeed.utils import safe_set_local_fp32_param

        parameter = self.parameters[index]
        with zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(whole)
        safe_set_local_fp32_param(parameter, self.part(index, whole))

    def _pieces(self) -> list[torch.Tensor]:
        return self.zero.fp32_partitioned_groups_flat

    def _link(self) -> None:
        pass

    def _moment(self, index: int, name: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_local_optimizer_state

        return self.whole(index, safe_get_local_optimizer_state(self.parameters[index], name))

    def _set_moment(self, index: int, name: str, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(self.parameters[index], self.part(index, whole), name)
