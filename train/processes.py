"""One training in one or several processes: what accelerate is told, and what only the first process does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, broadcast_object_list, parse_flag_from_env
from torch import nn

from ..common.allocator import keep_freed_memory
from .config import OptimConfig, RunConfig
from .zero import check_zero, hide_from_transformers, zero_plugin, zero_wanted

logger = logging.getLogger("diffharmony")
PATIENCE = timedelta(hours=6)  # the first process may encode a data set's latents while the others wait


def processes() -> PartialState:
    """The processes of this training, which `accelerate launch` or torchrun started: index, number, device. On CPUs torchrun alone
    starts several."""
    if "LOCAL_RANK" not in os.environ:
        _warn_of_one_process()
        return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if not (torch.cuda.is_available() or zero_wanted() or parse_flag_from_env("ACCELERATE_USE_FSDP")):
        # of torchrun's processes accelerate would take each for the only one
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    # accelerate names none of its own for DeepSpeed without a GPU, and would take each process for the only one
    backend = {"backend": "gloo"} if zero_wanted() and not cpu and not torch.cuda.is_available() else {}
    return PartialState(cpu=cpu, timeout=PATIENCE, **backend)


@cache
def _warn_of_one_process() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, and leaves only this trace of it."""
    told = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if told and not any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")):
        logger.warning("accelerate launch starts one process on a CPU, whatever --num_processes. Use torchrun --nproc_per_node N -m …")


def on_main(call: Callable[[], Any]) -> Any:
    """Run `call` in the first process. Every process returns what it returned, or raises what it raised."""
    state = processes()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = call()
        except Exception as error:
            if state.num_processes == 1:
                raise
            outcome[1] = error
    if state.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


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
    zero = zero_plugin(optim, processes().num_processes) if zero_wanted() else None
    accelerator = Accelerator(
        # DeepSpeed's own would make the weights bf16: compute_in does it
        mixed_precision="no" if zero else run.mixed_precision,
        deepspeed_plugin=zero,
        # given as a plugin, since accelerate's own configuration would overrule a plain number
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=optim.accumulation, sync_with_dataloader=False),
        log_with=None if run.tracker == "none" else run.tracker,
        project_dir=run.out,
        # normalisation here keeps no running statistics: there are no buffers to send round each step
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    try:
        _check_sharding(accelerator)
        if zero:
            hide_from_transformers()
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

    Raises: ValueError for half precision without a GPU, another precision than `accelerate launch` was told, settings of DeepSpeed
    that are not ours (train/zero.py), FSDP of version 1, wrapped by size, with parameters offloaded, or without GPUs.
    """
    if run.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("run.mixed_precision must be no or bf16 on a CPU, got fp16. Leave it out, or run on a GPU.")
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told not in ("no", run.mixed_precision):
        raise ValueError(
            f"run.mixed_precision must be accelerate's own {told!r}, got {run.mixed_precision!r}. Pass --run.mixed-precision {told}, or "
            "take it out of accelerate's configuration."
        )
    if zero_wanted():
        check_zero(run)
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
        DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED,
    ):  # fmt: skip
        raise ValueError(
            f"accelerate must run this on one process, several CPUs, several GPUs, FSDP or DeepSpeed, got {accelerator.distributed_type.value}. "
            "Choose one of these in its configuration."
        )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds a part of the weights only."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


def compute_in(mixed_precision: str, task: nn.Module, accelerator: Accelerator) -> None:
    """Let the task compute its loss in that precision where accelerate does not see to it: with FSDP and DeepSpeed. Its weights stay
    float32, as they do elsewhere."""
    if mixed_precision == "no" or accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
    # casts are not kept: they would hold on to weights that are gathered for a moment only
    task.forward = torch.autocast(accelerator.device.type, dtype, cache_enabled=False)(task.forward)


def agreed_path(path: Path | None) -> Path | None:
    """A file that the first process chose, once every process sees it. Raises: ValueError where one does not."""
    state = processes()
    found = torch.tensor(int(path is None or path.is_file()), device=state.device)
    if state.num_processes > 1:
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    if not found:
        raise ValueError(f"run.out must be a folder that every process sees, got {path}, which one does not. Choose a shared folder.")
    return path


def _forget_settings() -> None:
    """accelerate keeps precision and accumulation of the first Accelerator of a process for all later ones."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
