"""The order of the samples: endless shuffled streams, read by index, and the indices of each process's batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import floor, isfinite

import numpy as np


class ShuffledSampler:
    """Endless passes over the items of several sets of `lengths`, mixed by `weights`; items count on from set to set.

    The item at an index depends on (seed, index) only. Every sum(lengths) indices are an epoch: each set has its share of
    it, to the nearest item, at random places, and goes through its own items in passes, each in an order of its own. Without
    weights a set's share is its length, so that an epoch is every item once.
    Raises: ValueError for weights that do not fit.
    """

    def __init__(self, lengths: Sequence[int], seed: int, weights: Sequence[float] = ()):
        if weights and (len(weights) != len(lengths) or not all(isfinite(weight) and weight > 0 for weight in weights)):
            raise ValueError(
                f"data.weights must be one number above 0 for each of data.roots ({len(lengths)}), got {tuple(weights)}. "
                "Name as many, or none to mix by size."
            )
        self.lengths, self.seed, self.length = tuple(lengths), seed, sum(lengths)
        shares = [Fraction(weight) for weight in weights or lengths]
        if min(shares) * self.length < sum(shares):
            raise ValueError(
                f"data.weights must give each of data.roots an image in {self.length}, got {tuple(weights)}. "
                "Raise the smallest, or leave its root out."
            )
        # exact fractions: rounded ones would lose an item in some epochs
        self._edges = [Fraction(sum(shares[:count]), sum(shares)) for count in range(len(shares) + 1)]
        self._epochs: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> int:
        """The item at position `index` of the stream."""
        epoch, position = divmod(index, self.length)
        if epoch not in self._epochs:
            # two are kept: a batch may lie across the border
            self._epochs = {**dict(list(self._epochs.items())[-1:]), epoch: self._order(epoch)}
        return int(self._epochs[epoch][position])

    def _order(self, epoch: int) -> np.ndarray:
        bounds = [[floor(count * self.length * edge) for edge in self._edges] for count in (epoch, epoch + 1)]
        before, after = (np.diff(bound) for bound in bounds)
        sets = np.repeat(np.arange(len(self.lengths)), after - before)
        sets = np.random.default_rng((self.seed, 3, epoch)).permutation(sets)
        order = np.empty(self.length, dtype=np.int64)
        for number, (start, stop) in enumerate(zip(before, after)):
            order[sets == number] = sum(self.lengths[:number]) + self._passes(number, int(start), int(stop))
        return order

    def _passes(self, number: int, start: int, stop: int) -> np.ndarray:
        """What set `number` gives from its `start`-th to its `stop`-th item."""
        length = self.lengths[number]
        first = start // length
        passes = [
            np.random.default_rng((self.seed, 0, index, number)).permutation(length) for index in range(first, -(-stop // length))
        ]
        return np.concatenate(passes or [np.empty(0, dtype=np.int64)])[start - first * length : stop - first * length]


class BatchSampler:
    """Batch sampler: the indices of this process's share of every part of every step from `first_step` on.

    A step's `batch_size` indices are cut into `accumulation` parts, and each part over `processes`.
    """

    def __init__(self, *, batch_size: int, steps: int, first_step: int = 0, accumulation: int = 1, rank: int = 0, processes: int = 1):
        if batch_size % (accumulation * processes):
            raise ValueError(
                f"batch size must be a multiple of accumulation x processes = {accumulation * processes}, got {batch_size}. "
                "Change optim.batch_size."
            )
        self.batch_size, self.steps, self.first_step = batch_size, steps, first_step
        self.accumulation, self.rank, self.processes = accumulation, rank, processes

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // self.accumulation
        share = part // self.processes
        for step in range(self.first_step, self.steps):
            for index in range(self.accumulation):
                start = step * self.batch_size + index * part + self.rank * share
                yield list(range(start, start + share))
