"""From samples to batches: packed as 8 bits by the loader's processes, made floating in this one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from ...dataset.pairs import BadImage
from .crops import Crop

IMAGES = ("composite", "real")
DYING = 10  # seconds that a killed process may take to end


def to_uint8_batch(crops: list[Crop]) -> dict[str, Any]:
    """The crops as a batch of uint8 tensors: a quarter of what floating ones would be to send from process to process."""
    return {
        # default_collate, which in a loader's process stacks straight into the memory that is shared
        **{name: default_collate([getattr(crop, name) for crop in crops]) for name in (*IMAGES, "mask")},
        "seed": torch.tensor([crop.seed for crop in crops]),
        "name": [crop.name for crop in crops],
    }


def to_float_batch(packed: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """A packed batch as tasks take it: composite, real [B,3,S,S] float32 in [-1,1], mask [B,1,S,S] float32 in {0,1}; other
    tensors but `seed`, which stays on the CPU, float32 too."""
    batch = dict(packed)
    for name, value in packed.items():
        if torch.is_tensor(value) and name != "seed":
            value = value.to(device, non_blocking=True)
            whole = not value.is_floating_point() and name not in (*IMAGES, "mask")
            batch[name] = value if whole else value.float()
            if name in IMAGES and value.dtype == torch.uint8:
                batch[name].div_(127.5).sub_(1.0)
    return batch


class ReaderDied(RuntimeError):
    """A process that reads images died."""


class _Gone(BaseException):
    """The same, while torch waits for it: no Exception, which torch would catch, to wait for a lock that the dead one may hold."""


class BatchLoader:
    """The batches of a dataset, read by other processes ahead of time.

    The dataset makes them by `pack(indices)` (see `to_uint8_batch` above), or is one of single samples, which are then collated.
    Iterating raises BadImage for an image that cannot be read; ReaderDied when one of the processes died, and ends the others.
    """

    def __init__(self, dataset: Dataset, batches: Iterable[list[int]], workers: int, device: torch.device | None = None):
        self.device = device
        self._loader = DataLoader(
            _Packed(dataset), sampler=batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        self._readers: list[BaseProcess] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = self._from_readers(lambda: iter(self._loader))
        if self._loader.num_workers:
            self._readers = batches._workers
            _forget(batches)
        while (packed := self._from_readers(lambda: next(batches, None))) is not None:
            if "bad_image" in packed:
                raise BadImage(*packed["bad_image"])
            yield to_float_batch(packed, self.device)

    def _from_readers(self, take: Callable[[], Any]) -> Any:
        """What `take` gets from them. Raises: ReaderDied, whatever torch raises then."""
        try:
            with _child_ends(self._check):
                self._check()
                return take()
        except (Exception, _Gone) as error:
            # a dying reader's connections end a little before it does
            if not (dead := self._dead(DYING if isinstance(error, (ConnectionError, EOFError)) else 0)):
                raise
            self._end()
            how = ", ".join(f"process {reader.pid}: {_how(reader.exitcode)}" for reader in dead)
            raise ReaderDied(
                f"processes that read images must live, got one that died ({how}). The machine may be out of memory (SIGKILL) or of shared "
                "memory (SIGBUS): lower data.workers, and run the same command again."
            ) from error

    def _dead(self, patience: float = 0) -> list[BaseProcess]:
        """The readers that died, waiting so many seconds for one to do so."""
        ended = wait([reader.sentinel for reader in self._readers], patience) if self._readers else []
        return [reader for reader in self._readers if reader.sentinel in ended]

    def _check(self) -> None:
        if self._dead():
            raise _Gone

    def _end(self) -> None:
        for reader in self._readers:
            reader.kill()
        for reader in self._readers:
            reader.join(DYING)
        # torch's own way to end readers waits for locks, which a killed one may hold: it shall take them for ended
        self._loader._iterator._shutdown = True


def _forget(batches: Any) -> None:
    """Torch, where any loader of it was used, raises at the death of a reader that it knows, in whatever is being done then."""
    if batches._worker_pids_set:
        batches._worker_pids_set = False
        _remove_worker_pids(id(batches))


@contextmanager
def _child_ends(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` when a child process ends, and no longer after it. Whatever torch sets to be called is undone: it raises when a reader
    dies, in whatever is being done then."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)

    def ended(*arguments: Any) -> None:
        check()
        if callable(before):
            before(*arguments)

    signal.signal(signal.SIGCHLD, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _how(exit_code: int | None) -> str:
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"


class _Packed(Dataset):
    """A dataset by batches. A bad image is told, not raised: raised in another process, it would come with its traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> dict[str, Any]:
        if not hasattr(self.dataset, "pack"):
            return default_collate([self.dataset[index] for index in indices])
        try:
            return self.dataset.pack(indices)
        except BadImage as error:
            return {"bad_image": (error.path, str(error))}


def make_loader(dataset: Dataset, batches: Iterable[list[int]], workers: int, device: torch.device | None = None) -> BatchLoader:
    """Batches for tasks, on `device` (the CPU when None), read by `workers` processes, or this one when 0."""
    return BatchLoader(dataset, batches, workers, device)
