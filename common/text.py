"""Numbers in sentences, and numbers that follow from names."""

from __future__ import annotations

import hashlib
import json


def pluralize(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def hash64(*parts: str | int) -> int:
    """A whole number that looks random, 0 <= n < 2**64, from a SHA-256 of all parts in their order: of nothing else, on any machine.

    n < share * 2**64 holds for about `share` of all names.
    """
    # JSON keeps ("a", "b_c") and ("a_b", "c") apart, and 1 and "1"
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
