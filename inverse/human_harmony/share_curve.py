"""Figure 2: how large a share of the image the foreground is, beside iHarmony4's (SPEC §6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.layout import TEST_LIST, TRAIN_LIST
from ...evaluation.reproduce.figures import draw_cumulative, foreground_shares
from ...evaluation.reproduce.paper import FIGURE_2_PAPER, FIGURE_2_THRESHOLD
from ...train.data import read_list

PICTURE = "figure2.png"


def check_data_set(root: Path) -> list[str]:
    """The lists of a data set in iHarmony4's layout that there are. Raises: FileNotFoundError when there is none."""
    found = [name for name in (TRAIN_LIST, TEST_LIST) if (root / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{TRAIN_LIST} or {TEST_LIST} must exist, looked in {root.resolve()}. Check --iharmony4.")
    return found


def draw_shares(shares: Sequence[float], iharmony4: Path | None, picture: Path) -> dict[str, Any]:
    """Draw the cumulative curve of these shares (each 0..1), and that of the data set `iharmony4`, all of its lists, beside.

    Returns: JSON-able, the share of images above 0.2 in each set, the paper's, and the picture's path.
    Raises: as check_data_set, read_list.
    """
    sets = {"Human Harmony": np.asarray(shares, np.float64)}
    if iharmony4 is not None:
        pairs = [pair for name in check_data_set(iharmony4) for pair in read_list(iharmony4, name)]
        sets["iHarmony4"] = foreground_shares(pairs, "Masks of iHarmony4")
    draw_cumulative(sets, picture)
    above = {name: float((values > FIGURE_2_THRESHOLD).mean()) for name, values in sets.items()}
    return {"threshold": FIGURE_2_THRESHOLD, "above": above, "paper": FIGURE_2_PAPER, "picture": str(picture)}
