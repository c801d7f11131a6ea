"""Where and how to compute: the device, the threads, the allocator."""

from __future__ import annotations

import ctypes
import sys
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


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors on a device can take; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type not in ("cpu", "mps"):
        return None
    import psutil

    return psutil.virtual_memory().available


def raise_unless_out_of_memory(error: Exception) -> None:
    """Raise an error, unless it says that memory ran out: PyTorch has no class of its own for that on a CPU and on Apple's devices."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    told = isinstance(error, RuntimeError) and any(some in str(error) for some in words)
    if not told and not isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        raise error


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Have this process reuse freed memory instead of giving it back to the system; does nothing but on Linux with glibc.

    A decode at 512 px on the CPU otherwise spends as long on fresh pages as on arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
