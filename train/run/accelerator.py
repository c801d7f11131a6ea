"""One training in one or several processes: what accelerate is told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, parse_flag_from_env
from torch import nn

from ...common.devices import keep_freed_memory
from ...common.processes import processes
from ..config import OptimConfig, RunConfig

logger = logging.getLogger("diffharmony")


@contextmanager
def accelerated(optim: OptimConfig, run: RunConfig) -> Iterator[Accelerator]:
    """The accelerator of one training; another training may follow in this process.

    Raises: ValueError for what this machine, or accelerate's own configuration, does not go together with.
    """
    check_accelerate(run)
    if not torch.cuda.is_available():
        keep_freed_memory()
    processes()
    _forget_settings()
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        # given as a plugin, since accelerate's own configuration would overrule a plain number
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=optim.accumulation, sync_with_dataloader=False),
        log_with=None if run.tracker == "none" else run.tracker,
        project_dir=run.out,
        # normalisation here keeps no running statistics: there are no buffers to send round each step
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    try:
        _check_sharding(accelerator)
        if accelerator.is_fsdp2:
            # accelerate's would cast a batch's images and the weights, but nothing that a task makes: compute_in casts
            accelerator.state.fsdp_plugin.mixed_precision_policy = None
        yield accelerator
        # not end_training, which would end the processes' connection too: another training may follow
        for tracker in accelerator.trackers:
            tracker.finish()
    finally:
        _forget_settings()


def check_accelerate(run: RunConfig) -> None:
    """Check `run` against this machine and against what accelerate's own configuration has put into the environment.

    Raises: ValueError for half precision without a GPU, another precision than `accelerate launch` was told, DeepSpeed, FSDP of
    version 1, wrapped by size, with parameters offloaded, or without GPUs.
    """
    if run.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("run.mixed_precision must be no or bf16 on a CPU, got fp16. Leave it out, or run on a GPU.")
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told not in ("no", run.mixed_precision):
        raise ValueError(
            f"run.mixed_precision must be accelerate's own {told!r}, got {run.mixed_precision!r}. Pass --run.mixed-precision {told}, or "
            "take it out of accelerate's configuration."
        )
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError("accelerate must spread the weights by FSDP 2, or not at all, got DeepSpeed. Choose FSDP in its configuration.")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        version = os.environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise ValueError(f"fsdp_version must be 2 in accelerate's configuration, got {version}. Set it there.")
        if parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
            raise ValueError("fsdp_offload_params must be false in accelerate's configuration, got true. Use more processes instead.")
        if os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP").upper() == "SIZE_BASED_WRAP":
            raise ValueError(
                "fsdp_auto_wrap_policy must be NO_WRAP or TRANSFORMER_BASED_WRAP in accelerate's configuration, got SIZE_BASED_WRAP, which "
                "wraps lists of modules, and torch refuses these. Name classes: ResnetBlock2D, and BasicTransformerBlock for a UNet."
            )
        # every process reads all weights here: with it, transformers would leave those of text encoders empty in all but the first
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        if processes().distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU) and processes().device.type == "cpu":
            raise ValueError("FSDP must run on GPUs (accelerate ignores it on CPUs), got none. Launch with torchrun --nproc_per_node N instead.")


def _check_sharding(accelerator: Accelerator) -> None:
    if accelerator.distributed_type not in (
        DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP,
    ):  # fmt: skip
        raise ValueError(
            f"accelerate must run this on one process, several CPUs, several GPUs or FSDP, got {accelerator.distributed_type.value}. "
            "Choose one of these in its configuration."
        )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds a part of the weights only."""
    return accelerator.distributed_type == DistributedType.FSDP


def compute_in(mixed_precision: str, task: nn.Module, accelerator: Accelerator) -> None:
    """Let the task compute its loss in that precision where accelerate does not see to it: with FSDP. Its weights stay float32,
    as they do elsewhere."""
    if mixed_precision == "no" or not is_sharded(accelerator):
        return
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
    # casts are not kept: they would hold on to weights that are gathered for a moment only
    task.forward = torch.autocast(accelerator.device.type, dtype, cache_enabled=False)(task.forward)


def _forget_settings() -> None:
    """accelerate keeps precision and accumulation of the first Accelerator of a process for all later ones."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
