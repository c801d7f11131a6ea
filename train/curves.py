"""The loss curve of a run, as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from ..common.checkpoint import written_whole


def draw_curve(log: Path, picture: Path) -> None:
    """Draw the losses of `log` (one JSON object a line, with step and loss), raw and smoothed, into `picture`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    smooth: list[float] = []
    for row in rows:
        smooth.append(row["loss"] if not smooth else 0.98 * smooth[-1] + 0.02 * row["loss"])
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, [row["loss"] for row in rows], color="tab:blue", alpha=0.25, linewidth=0.8, label="loss")
    axes.plot(steps, smooth, color="tab:blue", label="smoothed")
    axes.set(xlabel="step", ylabel="training loss", yscale="log", title=log.parent.name)
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(picture) as temporary:
        figure.savefig(temporary, dpi=110)
