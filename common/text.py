"""Numbers in sentences."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
