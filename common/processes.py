"""The processes that `accelerate launch` or torchrun started, and what only the first of them does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

logger = logging.getLogger("diffharmony")
PATIENCE = timedelta(hours=6)  # the first process may encode a data set's latents while the others wait


def processes() -> PartialState:
    """The processes of this training, which `accelerate launch` or torchrun started: index, number, device. On CPUs torchrun alone
    starts several."""
    if "LOCAL_RANK" not in os.environ:
        _warn_of_one_process()
        return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if not (torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_FSDP")):
        # of torchrun's processes accelerate would take each for the only one
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)


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


def agreed_path(path: Path | None) -> Path | None:
    """A file that the first process chose, once every process sees it. Raises: ValueError where one does not."""
    state = processes()
    found = torch.tensor(int(path is None or path.is_file()), device=state.device)
    if state.num_processes > 1:
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    if not found:
        raise ValueError(f"run.out must be a folder that every process sees, got {path}, which one does not. Choose a shared folder.")
    return path
