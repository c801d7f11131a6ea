"""Run-length code of imaterialist-fashion: "start length" pairs, counted from 1, column by column (SPEC §6)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

DIGITS_AND_SPACE = set("0123456789 \t")
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


def parse_runs(text: str, height: int, width: int) -> np.ndarray:
    """The runs of one part: [N, 2] int64, first pixel counted from 0 and the pixel after the last; in the text's order, they may overlap.

    Pixels are counted down the first column, then down the second, and so on.
    Raises: ValueError for an empty text, an odd number of fields, anything but whole numbers, or a run that leaves the image.
    Source: SPEC §6.
    """
    if not text.strip():
        raise ValueError('EncodedPixels must hold "start length" pairs, got none. Mend the row.')
    if not DIGITS_AND_SPACE.issuperset(text):
        field = next(field for field in text.split() if not (field.isascii() and field.isdigit()))
        rule = "numbers of at least 1" if WHOLE_NUMBER.fullmatch(field) else "whole numbers"
        raise ValueError(f"EncodedPixels must be {rule}, got {field[:40]!r}. Mend the row.")
    # numbers too large for 64 bits become the largest, which no image has room for
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    if len(values) % 2:
        raise ValueError(f"EncodedPixels must be pairs, an even number of fields, got {len(values)}. Mend the row.")
    runs = values.reshape(-1, 2)
    starts, lengths = runs.T
    pixels = height * width
    # compared without a sum, which could overflow
    bad = (starts < 1) | (lengths < 1) | (starts > pixels) | (lengths > pixels - starts + 1)
    if bad.any():
        start, length = runs[bad.argmax()]
        raise ValueError(f"runs must lie within pixels 1 to {pixels} of {width} x {height}, got {start} {length}. Mend the row.")
    starts -= 1
    lengths += starts
    return runs


def merge_runs(*parts: np.ndarray) -> np.ndarray:
    """The union of parts: sorted runs [N, 2] int64 with at least one pixel between them. parts: as parse_runs gives them."""
    runs = np.concatenate(parts) if parts else np.empty((0, 2), np.int64)
    if len(runs) == 0:
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reached = np.maximum.accumulate(runs[:, 1])
    first = np.append(True, runs[1:, 0] > reached[:-1])
    last = np.append(first[1:], True)
    return np.stack([runs[first, 0], reached[last]], axis=1)


@dataclass(frozen=True)
class RunMask:
    """A mask as runs. runs: [N, 2] int64, as merge_runs gives them."""

    runs: np.ndarray
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.width, self.height

    @property
    def share(self) -> float:
        """Foreground's share of the image, 0..1."""
        return float((self.runs[:, 1] - self.runs[:, 0]).sum() / (self.height * self.width))

    def pixels(self) -> np.ndarray:
        """The mask as [height, width] uint8: 255 foreground, 0 background."""
        edges = np.concatenate([[0], self.runs.ravel(), [self.height * self.width]])
        values = np.zeros(len(edges) - 1, np.uint8)
        values[1::2] = 255
        return np.ascontiguousarray(np.repeat(values, np.diff(edges)).reshape(self.width, self.height).T)  # column-major
