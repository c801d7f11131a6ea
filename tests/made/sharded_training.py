"""Trainings whose weights torch (FSDP 2) spreads over two processes, on a CPU."""

from __future__ import annotations

from pathlib import Path

from accelerate.utils import DistributedType

FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResnetBlock2D", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}  # fmt: skip
HERE = f"{__name__}:"


def fully_sharded(arguments: list[str]) -> int | None:
    """`diffharmony <arguments>` with FSDP. torch runs it on CPUs as well, accelerate offers it to GPUs only: it is told that this
    process has one."""
    from diffharmony.__main__ import main
    from diffharmony.common.processes import processes

    processes().distributed_type = DistributedType.MULTI_GPU
    return main(arguments)


def start_sharded(runs, *command) -> list:
    """A training in two processes."""
    return runs.start_processes(2, *command, environment=FSDP, function=f"{HERE}fully_sharded")


def ended_well(started: list) -> None:
    assert [run.wait() for run in started] == [0, 0], started[0].output() + started[1].output()


def begun_by(other: Path, step: int, out: Path) -> Path:
    """A folder that goes on from another run's state of that step."""
    name = f"step-{step:08d}.pt"
    (out / "state").mkdir(parents=True)
    (out / "state" / name).write_bytes((other / "state" / name).read_bytes())
    (out / "config.json").write_bytes((other / "config.json").read_bytes())
    return out
