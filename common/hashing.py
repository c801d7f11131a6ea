"""Numbers that look random and follow from what they are of: seeds, choices, sides of a split."""

from __future__ import annotations

import hashlib
import json


def hash64(*parts: str | int) -> int:
    """A whole number, 0 <= n < 2**64, from a SHA-256 of all parts in their order: of nothing else, on any machine.

    n < share * 2**64 holds for about `share` of all names.
    """
    # JSON keeps ("a", "b_c") and ("a_b", "c") apart, and 1 and "1"
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
