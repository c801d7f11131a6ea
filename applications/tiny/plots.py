"""Pictures of the tiny family's report: a sheet of examples, and how the change is distributed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...common.plots import save_figure
from .measures import Row

COLUMNS = {
    "composite": "composite",
    "mask": "mask",
    "plain_pasted": "plain decode",
    "conditional_pasted": "conditional decode",
    "real": "real",
}
LINES = {
    "conditional_pasted": ("conditional decode", "#0b6e4f", "-"),
    "plain_pasted": ("plain decode", "#c8553d", "--"),
    "no_unet_pasted": ("no UNet", "#5b5f97", "-."),
    "colour_transfer": ("colour transfer", "#8a8a8a", ":"),
}


def representative(rows: Sequence[Row], best: int = 3, middle: int = 4, worst: int = 3) -> list[tuple[str, Row]]:
    """(rank, row) of the rows whose fMSE ratio is best, around the median, and worst, from best to worst; each at most once."""
    ordered = sorted(rows, key=lambda row: row.ratio)
    if len(ordered) <= best + middle + worst:
        return [(f"{position + 1} of {len(ordered)}", row) for position, row in enumerate(ordered)]
    start = min(max(best, len(ordered) // 2 - middle // 2), len(ordered) - worst - middle)
    groups = (("best", range(best)), ("median", range(start, start + middle)), ("worst", range(len(ordered) - worst, len(ordered))))
    return [(name, ordered[position]) for name, positions in groups for position in positions]


def draw_sheet(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Write the before/after sheet as PNG: one line per representative row, labelled with its fMSE ratio."""
    chosen = representative(rows)
    side, label = 1.5, 1.25  # inches
    width, height = label + side * len(COLUMNS), 0.3 + side * len(chosen)
    figure = Figure(figsize=(width, height), dpi=110)
    for line, (rank, row) in enumerate(chosen):
        bottom = (height - 0.3 - side * (line + 1)) / height
        for column, (picture, title) in enumerate(COLUMNS.items()):
            axes = figure.add_axes([(label + side * column) / width, bottom, side * 0.98 / width, side * 0.98 / height])
            axes.imshow(row.pictures[picture], cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(title, fontsize=9)
        before, after = (row.measurements[method].fmse for method in ("composite", "conditional_pasted"))
        text = f"{rank}\nfMSE × {row.ratio:.2f}\n{before:.0f} → {after:.0f}\n{row.name}"
        figure.text(0.06 / width, bottom + side / height / 2, text, fontsize=8, va="center")
    save_figure(figure, path)


def draw_distribution(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Write as PNG: each composite's fMSE ratio over its own fMSE, and the ratios' cumulative distribution by method."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    scatter, cumulative = figure.subplots(1, 2)
    before = np.array([row.measurements["composite"].fmse for row in rows])
    for method in ("no_unet_pasted", "conditional_pasted"):
        name, colour, _ = LINES[method]
        scatter.scatter(before, [row.ratio_of(method) for row in rows], s=14, color=colour, alpha=0.7, label=name, linewidths=0)
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
        ratios = np.sort([row.ratio_of(method) for row in rows])
        largest = max(largest, float(np.quantile(ratios, 0.9)))
        ratios = np.append(0, ratios)
        share = np.arange(len(ratios)) / len(rows)
        better = np.mean([row.ratio_of(method) < 1 for row in rows])
        cumulative.step(ratios, share, where="post", color=colour, linestyle=style, label=f"{name} ({better:.0%} better)")
    cumulative.axvline(1, color="black", linewidth=0.8)
    cumulative.set(xlim=(0, min(4.0, math.ceil(max(1.5, largest) * 2) / 2)), ylim=(0, 1))
    cumulative.set(xlabel="fMSE of the result / of the composite", ylabel="share of composites at or below")
    cumulative.set_title(f"cumulative distribution, {len(rows)} composites, background pasted", fontsize=9)
    cumulative.legend(fontsize=8, loc="lower right")
    for axes in (scatter, cumulative):
        axes.grid(alpha=0.25, which="major")
    save_figure(figure, path)
