"""The paper's Figures 2 and 3, from our own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ...common.images import read_mask, read_picture
from ...common.plots import save_figure
from ...dataset.foreground_ratio import FIGURE_2_PAPER, FIGURE_2_THRESHOLD, draw_cumulative, foreground_shares
from ...dataset.pairs import read_list
from ...evaluation.tables import markdown_table
from .paper import TABLES
from .tables import Setting, prediction_folder, predictions_place, run_table

EXAMPLES = 8


def draw_figure_2(data: Path | None, list_file: str, human_harmony: Path | None, out: Path) -> tuple[dict[str, Any], str]:
    """The cumulative curve of each data set, as figure2.png; without `data`, of the tiny family's own sets. Source: SPEC §6."""
    if data is None:
        from .miniature import Miniature, make_test_data, make_training_data

        train, test = (make(Miniature(), out / "miniature") for make in (make_training_data, make_test_data))
        sets = {"tiny family, training": (train, "IHD_train.txt"), "tiny family, test": (test, "IHD_test.txt")}
        heading = " — MINIATURE: data of our own, not the paper's"
    else:
        sets, heading = {"iHarmony4": (data, list_file)}, ""
        if human_harmony is not None:
            sets["Human Harmony"] = (human_harmony, list_file)
    shares = {name: foreground_shares(read_list(*place), name) for name, place in sets.items()}
    draw_cumulative(shares, out / "figure2.png", heading)
    above = {name: float((values > FIGURE_2_THRESHOLD).mean()) for name, values in shares.items()}
    header = ["", "images", f"share above {FIGURE_2_THRESHOLD:g}", "paper's"]
    rows = [[name, len(values), f"{above[name]:.3f}", FIGURE_2_PAPER.get(name, "-")] for name, values in shares.items()]
    text = f"### Figure 2: foreground share of the image{heading}\n\n{markdown_table(header, rows)}\n\nPicture: {out / 'figure2.png'}\n"
    return {"heading": heading, "above": above, "paper": FIGURE_2_PAPER, "picture": str(out / "figure2.png")}, text


def draw_figure_3(setting: Setting, out: Path, *, state, seed: int) -> tuple[dict[str, Any], str]:
    """Table 1's methods on composites spread over the list, side by side, as figure3.png."""
    table = TABLES["table1"]
    result = run_table(table, setting, out, state=state, seed=seed)
    if not result:
        return {}, ""
    pairs = setting.pairs()
    place = predictions_place(out, pairs)
    chosen = [pairs[round(position)] for position in np.linspace(0, len(pairs) - 1, min(EXAMPLES, len(pairs)))]
    side = (setting.kept, setting.kept)
    columns = {
        "composite": [read_picture(pair.composite).convert("RGB").resize(side) for pair in chosen],
        "mask": [read_mask(pair.mask).convert("RGB").resize(side) for pair in chosen],
    }
    for row in table.rows:
        folder = None if row.method is None else prediction_folder(place, row, 0)
        if folder is not None and folder.is_dir():
            columns[row.name] = [read_picture(folder / f"{pair.composite.stem}.png") for pair in chosen]
    columns["real"] = [read_picture(pair.real).convert("RGB").resize(side) for pair in chosen]
    draw_examples(columns, out / "figure3.png", setting.heading)
    text = f"### Figure 3: examples{setting.heading}\n\nPicture: {out / 'figure3.png'}\n"
    return {"heading": setting.heading, "picture": str(out / "figure3.png"), "composites": [pair.composite.stem for pair in chosen]}, text


def draw_examples(columns: dict[str, Sequence[Image.Image]], path: Path, heading: str = "") -> None:
    """One line per composite, one column per method, as PNG."""
    lines = len(next(iter(columns.values())))
    side, head = 1.7, 0.6  # inches
    height = head + side * lines
    figure = Figure(figsize=(side * len(columns), height), dpi=110)
    for column, (title, pictures) in enumerate(columns.items()):
        for line, picture in enumerate(pictures):
            bottom = height - head - side * (line + 1)
            axes = figure.add_axes([column / len(columns), bottom / height, 0.98 / len(columns), side * 0.98 / height])
            axes.imshow(picture, interpolation="lanczos")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(title.replace(" (", "\n("), fontsize=7)
    figure.text(0.01, 1 - 0.05 / height, f"Figure 3{heading}", fontsize=7, va="top")
    save_figure(figure, path)
