"""One self-contained HTML page of an evaluation: tables, every image sorted by any figure, worst and best cases as pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from PIL import Image
from tqdm import tqdm

from ..common.images import read_mask, read_picture
from ..dataset.predictions import PROBLEMS
from .measuring import Evaluation
from .metrics import LARGER_IS_BETTER, METRICS, Measurement, range_of
from .tables import DIFFERENT_IMAGES, EFFECTS, groups_of, kind_name, number, settings_text

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")  # a jinja2 template with its style and script inside
LONG_SIDE = 320  # pixels of an embedded picture
START = "fMSE"


@dataclass(frozen=True)
class Column:
    """One figure of one method, or of the difference of two: a value per image, None where there is none."""

    figure: str
    method: str
    values: list[float | None]

    @property
    def larger(self) -> bool:
        return self.figure in LARGER_IS_BETTER

    def extremes(self, count: int) -> list[int]:
        """The images of the `count` largest and the `count` smallest values."""
        known = sorted((index for index, value in enumerate(self.values) if value is not None), key=lambda index: self.values[index])
        return [*known[:count], *known[-count:]]


def page(evaluation: Evaluation, result: dict[str, Any], *, cases: int, progress: bool = True) -> str:
    """The page. cases: worst and best images of each figure that are shown as pictures."""
    columns = _columns(evaluation)
    chosen = sorted({index for column in columns for index in column.extremes(cases)})
    labels = [method.label for method in evaluation.methods]
    with ThreadPoolExecutor(evaluation.workers) as pool:
        made = pool.map(lambda index: _pictures(evaluation, index), chosen)
        bar = tqdm(made, total=len(chosen), desc="Pictures", unit="image", disable=not progress, delay=2, dynamic_ncols=True)
        pictures = dict(zip(chosen, bar))
    data = {
        "figures": list(METRICS),
        "methods": labels,
        "groups": list(dict.fromkeys(column.method for column in columns)),
        "titles": ["composite", "mask", *labels, "real"],
        "columns": [
            {"figure": column.figure, "method": column.method, "larger": column.larger, "difference": column.method not in labels}
            for column in columns
        ],
        "start": next(index for index, column in enumerate(columns) if column.figure == START),
        "shown": cases,
        "rows": [_row(evaluation, columns, index) for index in range(len(evaluation.pairs))],
        "pictures": pictures,
    }
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE).render(
        title=f"Evaluation of {', '.join(labels)}",
        settings=settings_text(result),
        level=f"{result['bootstrap']['level']:.0%}" if result["bootstrap"]["resamples"] else "",
        figures=list(METRICS),
        groups=_groups(result["predictions"], ranked=result["same_images"]),
        different="" if result["same_images"] else DIFFERENT_IMAGES,
        comparisons=_comparisons(result["comparisons"]),
        problems=[
            {"kind": kind_name(kind), "label": table["label"], "names": table[kind], "effect": f", {EFFECTS[kind]}"}
            for table in result["predictions"]
            for kind in EFFECTS
            if table[kind]
        ],
        cases=cases,
        data=Markup(_as_script(data)),
    )


def _columns(evaluation: Evaluation) -> list[Column]:
    columns = [
        Column(figure, method.label, [None if isinstance(one, str) else one.values()[figure] for one in method.outcomes])
        for method in evaluation.methods
        for figure in METRICS
    ]
    first = columns[: len(METRICS)]
    for position in range(len(METRICS), len(columns)):
        column, reference = columns[position], first[position % len(METRICS)]
        values = [None if a is None or b is None else b - a for a, b in zip(reference.values, column.values)]
        columns.append(Column(column.figure, f"{column.method} − {reference.method}", values))
    return columns


def _row(evaluation: Evaluation, columns: Sequence[Column], index: int) -> list[Any]:
    outcomes = [method.outcomes[index] for method in evaluation.methods]
    foreground = next((one.foreground for one in outcomes if isinstance(one, Measurement)), None)
    values = [None if column.values[index] is None else _rounded(column.values[index]) for column in columns]
    problems = [kind_name(one) if one in PROBLEMS else "" for one in outcomes]
    place = "" if foreground is None else range_of(foreground)
    return [evaluation.names[index], evaluation.pairs[index].subset, place, foreground, values, problems]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _pictures(evaluation: Evaluation, index: int) -> list[str | None]:
    """Composite, mask, one per method and the real image as data addresses; None for one that cannot be shown."""
    pair = evaluation.pairs[index]
    real, mask = read_picture(pair.real), read_mask(pair.mask)
    try:
        composite = read_picture(pair.composite)
    except (OSError, ValueError):
        composite = None
    shape = real.size
    predictions = [method.picture(index, real, mask, evaluation.size) for method in evaluation.methods]
    shown = [composite, mask, *(None if isinstance(one, str) else one for one in predictions), real]
    return [None if picture is None else _address(picture, shape) for picture in shown]


def _address(picture: Image.Image, shape: tuple[int, int]) -> str:
    """The picture in the real image's shape, at most LONG_SIDE long, as a data address."""
    scale = min(1.0, LONG_SIDE / max(shape))
    size = tuple(max(1, round(side * scale)) for side in shape)
    picture = picture if picture.mode == "L" else picture.convert("RGB")
    picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _groups(tables: Sequence[dict[str, Any]], *, ranked: bool) -> list[dict[str, Any]]:
    """The rows of each group. ranked: whether a figure's best is marked."""
    found = []
    for name in dict.fromkeys(name for table in tables for name in groups_of(table)):
        members = [(table, groups_of(table)[name]) for table in tables if name in groups_of(table)]
        rows = []
        for table, means in members:
            cells = []
            for figure in METRICS:
                rivals = [other[figure] for _, other in members if other[figure] is not None]
                best = max(rivals, default=None) if figure in LARGER_IS_BETTER else min(rivals, default=None)
                low_high = table["intervals"] and table["intervals"][figure] if name == "overall" else None
                interval = f"{number(low_high[0])}, {number(low_high[1])}" if low_high else ""
                marked = ranked and len(set(rivals)) > 1 and means[figure] == best
                cells.append({"text": number(means[figure]), "best": marked, "interval": interval})
            rows.append({"label": table["label"], "count": means["count"], "cells": cells})
        found.append({"name": name, "rows": rows})
    return found


def _comparisons(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for comparison in comparisons:
        for position, (name, group) in enumerate(groups_of(comparison).items()):
            pair = "" if position else f"{comparison['a']} → {comparison['b']}"
            rows.append({"pair": pair, "group": name, "count": group["count"], "cells": [_difference(group, figure) for figure in METRICS]})
    return rows


def _difference(group: dict[str, Any], figure: str) -> dict[str, str]:
    found = group[figure]
    if found is None:
        return {"text": "-", "interval": "", "share": "", "verdict": ""}
    apart = found["low"] > 0 or found["high"] < 0
    better = (found["difference"] > 0) == (figure in LARGER_IS_BETTER)
    return {
        "text": f"{found['difference']:+.2f}",
        "interval": f"{found['low']:+.2f}, {found['high']:+.2f}",
        "share": f"{found['b_better']:.0%}",
        "verdict": ("better" if better else "worse") if apart else "",
    }


def _as_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
