"""Which photographs are for training and which for tests (SPEC §6, §7)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

TRAIN, TEST = 65742, 7404  # iHarmony4's
TEST_SHARE = TEST / (TRAIN + TEST)


def split_photographs(
    names: Iterable[str], *, seed: int = 0, test_share: float = TEST_SHARE, same: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Train and test names, each sorted. Test gets round(share * photographs), the paper's ratio being iHarmony4's.

    Of the paper's 29,106 photographs that is 26,160 and 2,946; the paper prints 26,157 and 2,946, which do not add up to its 29,106.
    Each name has a place that a hash of it and the seed gives; the first go to the tests. So neither order nor what else there is moves it,
    but where the border lies. same: a name that stands for all photographs equal to it, as same_files gives them; equal ones go to
    one side, and the counts are exact where enough others are left to fill up.
    Raises: ValueError for a share outside 0..1. Source: SPEC §6.
    """
    if not 0 <= test_share <= 1:
        raise ValueError(f"test-share must lie in 0..1, got {test_share:g}. Leave it out for iHarmony4's, {TEST_SHARE:.4f}.")
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[(same or {}).get(name, name)].append(name)
    left = round(test_share * sum(map(len, groups.values())))
    train: list[str] = []
    test: list[str] = []
    for first in sorted(groups, key=lambda name: (_place(name, seed), name)):
        members = groups[first]
        if len(members) <= left:
            left -= len(members)
            test += members
        else:
            train += members
    return sorted(train), sorted(test)


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
