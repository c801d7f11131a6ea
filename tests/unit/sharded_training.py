"""A training whose weights torch shards over two processes, and its parts by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from diffharmony.train.state import collect, read_state, write_state


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    model[0].bias.requires_grad_(False)
    return model


def training_parts(model: nn.Module) -> tuple:
    """Parameters, optimizer, schedule, average and no scaler, as train/state.py takes them."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return parameters, optimizer, schedule, EMAModel(parameters, decay=0.9, foreach=True), None


def take_steps(model, parts, first, last, rank, processes):
    parameters, optimizer, schedule, ema, _ = parts
    for step in range(first, last):
        batch = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).view(processes, -1, 5)[rank]
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step(parameters)


def train_sharded(rank, port, out):
    """Three steps, a state, and two more steps from it, in one of two processes. Leaves the states of steps 3 and 5 in `out`."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))

    def parts():
        model = small_model()
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, training_parts(model)

    model, first = parts()
    take_steps(model, first, 0, 3, rank, 2)
    state = collect(3, *first)
    if rank == 0:
        write_state(Path(out), state, keep=2)
    distributed.barrier()
    model, second = parts()
    assert read_state(Path(out) / "state" / "step-00000003.pt", *second) == 3
    take_steps(model, second, 3, 5, rank, 2)
    state = collect(5, *second)
    if rank == 0:
        write_state(Path(out), state, keep=2)
    distributed.destroy_process_group()
