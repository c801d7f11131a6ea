"""Variants of one result: their seeds, and which of them comes first."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.text import hash64

MOST_VARIANTS = 8


def variant_seeds(seed: int, count: int) -> list[int]:
    """The seed of every variant: the first one's is `seed` itself, the others' follow from it and their number, not from `count`.

    Raises: ValueError for another number than 1..8.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_VARIANTS:
        raise ValueError(f"variants must be a whole number in 1..{MOST_VARIANTS}, got {count!r}. 3 show what may come.")
    # short, so that it can be typed, and a browser's numbers hold it
    return [seed] + [hash64("variant", seed, number) % 2**32 for number in range(1, count)]


def most_harmonious_first(probabilities: Sequence[float]) -> list[int]:
    """The numbers of the variants by their unharmonious probabilities, lowest first; equal ones in their own order."""
    return sorted(range(len(probabilities)), key=probabilities.__getitem__)


def variant_label(place: int, seed: int, probability: float | None) -> str:
    """What stands below a variant on a sheet. place: 1 is the first. probability: None where there is no classifier."""
    return f"{place}: seed {seed}" if probability is None else f"{place}: {probability:.3f}, seed {seed}"
