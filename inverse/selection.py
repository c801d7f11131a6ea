"""Which candidates of a real image to keep: the most unharmonious ones, within limits (SPEC §6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NOT_FINITE = "score or distance is not finite"
TOO_NEAR = "changed less than min_distance"
TOO_FAR = "changed more than max_distance"
TOO_SURE = "score above max_score"
REASONS = (NOT_FINITE, TOO_NEAR, TOO_FAR, TOO_SURE)


@dataclass(frozen=True)
class Choice:
    """Indices of the chosen candidates, best first, and index -> reason (one of REASONS) of those outside the limits."""

    chosen: tuple[int, ...]
    rejected: dict[int, str]


def choose_candidates(
    scores: Sequence[float], distances: Sequence[float], *, count: int = 1, min_distance: float = 0.0,
    max_distance: float | None = None, max_score: float | None = None,
) -> Choice:  # fmt: skip
    """Choose up to `count` of K candidates: those of the highest unharmonious probability, the first of equal ones.

    scores: K unharmonious probabilities. distances: K mean squared differences from the real image inside the mask, of 0..255.
    min_distance rejects what changed nothing, max_distance and max_score what is broken; a value at a limit is within it.
    Raises: ValueError for other lengths, or limits that leave nothing.
    """
    check_limits(count, min_distance, max_distance, max_score)
    scores, distances = [float(score) for score in scores], [float(distance) for distance in distances]
    if len(scores) != len(distances):
        raise ValueError(f"distances must be one for each of {len(scores)} scores, got {len(distances)}. Pass as many.")
    rejected: dict[int, str] = {}
    for index, (score, distance) in enumerate(zip(scores, distances)):
        if not (math.isfinite(score) and math.isfinite(distance)):
            rejected[index] = NOT_FINITE
        elif distance < min_distance:
            rejected[index] = TOO_NEAR
        elif max_distance is not None and distance > max_distance:
            rejected[index] = TOO_FAR
        elif max_score is not None and score > max_score:
            rejected[index] = TOO_SURE
    left = sorted((index for index in range(len(scores)) if index not in rejected), key=lambda index: (-scores[index], index))
    return Choice(tuple(left[:count]), rejected)


def check_limits(count: int, min_distance: float, max_distance: float | None, max_score: float | None) -> None:
    """Raises: ValueError for limits that leave nothing."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}. Ask for one candidate of each pair, say.")
    if not 0 <= min_distance < math.inf:
        raise ValueError(f"min_distance must be at least 0, and finite, got {min_distance}. Leave it out to reject nothing.")
    if max_distance is not None and not max_distance >= min_distance:
        raise ValueError(f"max_distance must be at least min_distance ({min_distance:g}), got {max_distance}. Raise it, or leave it out.")
    if max_score is not None and not 0 <= max_score <= 1:
        raise ValueError(f"max_score must lie in [0, 1], got {max_score}. Leave it out to reject nothing.")
