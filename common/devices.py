"""Which device to compute on, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def find_device(name: str, own: torch.device | None = None) -> torch.device:
    """The device of a name: cpu, cuda, cuda:1, mps; "auto" is `own`, or a GPU where there is one.

    Raises: ValueError for a device that this machine does not have.
    """
    if name == "auto":
        return own or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that this machine has, got {name!r}. Use --device auto or cpu.") from error
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many threads on the CPU. Their number decides in which order sums are taken: a result is the same to the last bit
    only at the same number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
