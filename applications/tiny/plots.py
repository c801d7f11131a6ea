"""How the tiny family's results are distributed, as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...common.plots import save_figure

Row = dict[str, Any]  # one composite of the report's "images"
RESULT, DEFAULT, NO_UNET = "conditional_pasted", "transferred_pasted", "no_unet_pasted"
LINES = {
    DEFAULT: ("the default, transferred", "#d49a00", "-"),
    RESULT: ("conditional decode", "#0b6e4f", "-"),
    "plain_pasted": ("plain decode", "#c8553d", "--"),
    NO_UNET: ("no UNet", "#5b5f97", "-."),
    "colour_transfer": ("colour transfer", "#8a8a8a", ":"),
}


def ratio_of(row: Row, method: str = RESULT) -> float:
    """A method's fMSE over that of the composite."""
    return row[method]["fMSE"] / row["composite"]["fMSE"]


def draw_distribution(rows: list[Row], path: Path) -> None:
    """Write as PNG: each composite's fMSE ratio over its own fMSE, and the ratios' cumulative distribution by method."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    scatter, cumulative = figure.subplots(1, 2)
    before = np.array([row["composite"]["fMSE"] for row in rows])
    for method in (NO_UNET, RESULT, DEFAULT):
        name, colour, _ = LINES[method]
        scatter.scatter(before, [ratio_of(row, method) for row in rows], s=14, color=colour, alpha=0.7, label=name, linewidths=0)
    scatter.axhline(1, color="black", linewidth=0.8)
    scatter.set(xscale="log", yscale="log")
    for axis in (scatter.xaxis, scatter.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    scatter.set(xlabel="fMSE of the composite", ylabel="fMSE of the result / of the composite")
    scatter.set_title("by strength of the change (below 1: better than the composite)", fontsize=9)
    scatter.legend(fontsize=8)
    largest = 0.0
    for method, (name, colour, style) in LINES.items():
        ratios = np.sort([ratio_of(row, method) for row in rows])
        largest = max(largest, float(np.quantile(ratios, 0.9)))
        ratios = np.append(0, ratios)
        share = np.arange(len(ratios)) / len(rows)
        better = np.mean([ratio_of(row, method) < 1 for row in rows])
        cumulative.step(ratios, share, where="post", color=colour, linestyle=style, label=f"{name} ({better:.0%} better)")
    cumulative.axvline(1, color="black", linewidth=0.8)
    cumulative.set(xlim=(0, min(4.0, math.ceil(max(1.5, largest) * 2) / 2)), ylim=(0, 1))
    cumulative.set(xlabel="fMSE of the result / of the composite", ylabel="share of composites at or below")
    cumulative.set_title(f"cumulative distribution, {len(rows)} composites, background pasted", fontsize=9)
    cumulative.legend(fontsize=8, loc="lower right")
    for axes in (scatter, cumulative):
        axes.grid(alpha=0.25, which="major")
    save_figure(figure, path)
