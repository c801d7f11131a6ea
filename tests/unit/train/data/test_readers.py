"""A loader's process that dies, at any moment: one error, where batches are taken, and no process is left."""

import gc
import os
import signal
import sys
import threading

import pytest
import torch
from torch.utils.data._utils import signal_handling

from diffharmony.train.data import batches
from diffharmony.train.data.batches import ReaderDied, make_loader

TOLD = r"processes that read images must live, got one that died \(process {}: SIGKILL\)\. The machine may be out of memory .* lower data.workers"


class Batches(torch.utils.data.Dataset):
    """Packed batches that hold their reader's process id, and what `extra` makes."""

    def __init__(self, extra=lambda index: None):
        self.extra = extra

    def pack(self, indices):
        return {"seed": torch.tensor([os.getpid()]), "name": [str(index) for index in indices], "extra": self.extra(indices[0])}


class Reset:
    """Comes to the other process as a connection that the reader's death has reset, a moment before the reader is gone."""

    def __reduce__(self):
        return _reset, (os.getpid(),)


def _reset(reader):
    threading.Timer(0.3, os.kill, (reader, signal.SIGKILL)).start()
    raise ConnectionResetError(104, "Connection reset by peer")


def die_with_the_lock(index):
    """What torch asks once per batch is asked under a lock, which a killed reader keeps."""
    if index != 3:
        return
    frame = sys._getframe()
    while "done_event" not in frame.f_locals:
        frame = frame.f_back
    frame.f_locals["done_event"]._cond.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=[False, True], ids=["alone", "after a loader of torch's own"])
def other(request, monkeypatch):
    """Such a loader leaves a handler that raises wherever a reader's death finds this process."""
    before = signal.getsignal(signal.SIGCHLD)
    if request.param:
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # by none before, which it would not set again
        assert len(list(torch.utils.data.DataLoader([1, 2], num_workers=1))) == 2
        assert signal.getsignal(signal.SIGCHLD) != before
    yield
    signal.signal(signal.SIGCHLD, before)


def gone(readers):
    return not any(os.path.exists(f"/proc/{reader}") for reader in readers)


@pytest.mark.parametrize("extra", [lambda index: Reset() if index == 3 else None, die_with_the_lock], ids=["a reset connection", "a lock"])
@pytest.mark.timeout(60)
def test_whatever_torch_meets_it_is_one_error_and_ends_all_of_them(extra, other):
    loader = make_loader(Batches(extra), [[index] for index in range(50)], 2)
    with pytest.raises(ReaderDied, match=TOLD.format(r"\d+")):
        list(loader)
    readers = [reader.pid for reader in loader._readers]  # not those of batches that came: there may be none yet
    assert len(readers) == 2 and gone(readers)
    with pytest.raises(ValueError, match="Cannot find worker information"):  # an iterator made later may have its id
        signal_handling._remove_worker_pids(id(loader._loader._iterator))
    del loader
    gc.collect()  # torch's iterator ends with them, or waits forever


def test_it_is_told_where_batches_are_taken_and_nowhere_else(other):
    before = signal.getsignal(signal.SIGCHLD)
    loader = make_loader(Batches(), [[index] for index in range(50)], 2)
    taken = iter(loader)
    readers = [next(taken)["seed"].item() for _ in range(2)]
    assert len(set(readers)) == 2
    os.kill(readers[1], signal.SIGKILL)
    while open(f"/proc/{readers[1]}/stat").read().rpartition(")")[2].split()[0] != "Z":
        pass
    assert signal.getsignal(signal.SIGCHLD) == before
    with pytest.raises(ReaderDied, match=TOLD.format(readers[1])):
        list(taken)  # some are read already, and its last thread may still be ending
    assert gone(readers)
    with pytest.raises(ReaderDied, match="processes that read images must live"):  # it cannot go on
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_set_stays_what_it_is(workers, monkeypatch):
    monkeypatch.setattr(batches, "DYING", 0.1)

    def extra(index):
        raise ConnectionRefusedError("the share is away") if index else ValueError("a defect")

    for index, kind, message in ((0, ValueError, "a defect"), (1, ConnectionRefusedError, "the share is away")):
        with pytest.raises(kind, match=message):
            next(iter(make_loader(Batches(extra), [[index]], workers)))
