"""The foreground's share of the image, and its cumulative curve beside iHarmony4's: the paper's Figure 2 (SPEC §6)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from ..common.images import read_mask
from ..common.pictures import HALF
from ..common.plots import save_figure
from .layout import TEST_LIST, TRAIN_LIST
from .pairs import Pair, read_list

# Figure 2's statement: share of images whose foreground is above 0.2 of the picture.
FIGURE_2_THRESHOLD = 0.2
FIGURE_2_PAPER = {"Human Harmony": "about 0.70", "iHarmony4": "under 0.15"}


def foreground_shares(pairs: Sequence[Pair], label: str = "Reading masks", workers: int = 4) -> np.ndarray:
    """Foreground's share of each pair's mask, [N] float64 in [0, 1]; each mask file is read once.

    Raises: ValueError for a mask that cannot be read.
    """
    masks = list(dict.fromkeys(pair.mask for pair in pairs))
    with ThreadPoolExecutor(workers) as pool:
        shares = dict(zip(masks, tqdm(pool.map(_share, masks), total=len(masks), desc=label, unit="mask", delay=2)))
    return np.array([shares[pair.mask] for pair in pairs])


def draw_cumulative(shares: dict[str, np.ndarray], path: Path, heading: str = "") -> None:
    """Cumulative distribution of the foreground's share, one curve per data set ([N] in [0, 1] each), as PNG."""
    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, values in shares.items():
        ordered = np.sort(values)
        above = (values > FIGURE_2_THRESHOLD).mean()
        label = f"{name} ({len(values):,} images, {above:.0%} above {FIGURE_2_THRESHOLD:g})"
        axes.step(np.append(0, ordered), np.append(0, np.arange(1, len(ordered) + 1) / len(ordered)), where="post", label=label)
    axes.axvline(FIGURE_2_THRESHOLD, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="foreground's share of the image", ylabel="share of images at or below")
    axes.set_title(f"Figure 2: foreground share{heading}", fontsize=9, wrap=True)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
    save_figure(figure, path)


def _share(path: Path) -> float:
    return float((np.asarray(read_mask(path)) >= HALF).mean())


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
