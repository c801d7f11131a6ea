"""The curves of a run, as a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path


def smoothed(values: list[float], start: float = math.nan) -> list[float]:
    """The running mean of `values`, each of weight 0.02, going on from `start`."""
    means: list[float] = []
    mean = start
    for value in values:
        mean = value if math.isnan(mean) else 0.98 * mean + 0.02 * value
        means.append(mean)
    return means


def draw_curve(log: Path, picture: Path) -> None:
    """Draw what `log` (one JSON object a line) holds into `picture`: losses by step, raw and smoothed, and where there are any,
    validation losses beside them and PSNR below."""
    from matplotlib.figure import Figure

    from ...common.plots import save_figure

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    trained, loss, psnr = (
        [(row["step"], row[name]) for row in rows if name in row] for name in ("loss", "validation_loss", "validation_psnr")
    )
    figure = Figure(figsize=(7, 6 if psnr else 4), dpi=110)
    panels = figure.subplots(2 if psnr else 1, sharex=True, squeeze=False)[:, 0]
    steps, values = [step for step, _ in trained], [value for _, value in trained]
    panels[0].plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8, label="loss")
    panels[0].plot(steps, smoothed(values), color="tab:blue", label="smoothed")
    if loss:
        panels[0].plot(*zip(*loss), color="tab:orange", marker=".", label="validation")
    panels[0].set(ylabel="loss", yscale="log")
    panels[0].set_title(log.parent.name, parse_math=False)  # a $ is a $
    panels[0].legend()
    if psnr:
        panels[1].plot(*zip(*psnr), color="tab:orange", marker=".")
        panels[1].set(ylabel="validation PSNR, dB")
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set(xlabel="step")
    save_figure(figure, picture)
