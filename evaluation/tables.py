"""Tables of figures, as text and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..common.text import pluralize
from .metrics import METRICS

# keys of a method's table, and what becomes of the images that they name
EFFECTS = {
    "missing": "left out of every figure",
    "unreadable": "left out of every figure",
    "wrong_size": "left out of every figure",
    "extra": "not in the list",
    "without_foreground": "left out of fMSE",
    "without_psnr": "left out of PSNR: the convention's peak is 0",
}

DIFFERENT_IMAGES = "Not all were measured on the same images: these means do not rank them. Paired differences are of images that both have."


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    widths = [max(len(str(row[column])) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:])]
        return "  ".join([str(row[0]).ljust(widths[0]), *cells]).rstrip()

    return "\n".join(map(line, (header, *rows)))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub-flavoured table, the first column to the left and the others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A figure for people; a figure that does not exist is a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def evaluation_text(result: dict[str, Any], names_shown: int) -> str:
    """What `diffharmony evaluate` prints of evaluate()'s result."""
    parts = [settings_text(result)]
    for table in result["predictions"]:
        rows = [[name, str(row["count"]), *(number(row[figure]) for figure in METRICS)] for name, row in groups_of(table).items()]
        parts.append(f"\n{table['folder'] or table['label']}\n" + text_table(["", "images", *METRICS], rows))
        named = {kind: table[kind] for kind in EFFECTS if table[kind]}
        parts += [f"{len(names)} {kind_name(kind)}, {EFFECTS[kind]}: {_listed(names, names_shown)}" for kind, names in named.items()]
    if not result["same_images"]:
        parts.append(f"\n{DIFFERENT_IMAGES}")
    if result["comparisons"]:
        rows = [
            [f"{one['b']} - {one['a']}", str(one["count"]), *(_difference(one["overall"][figure]) for figure in METRICS)]
            for one in result["comparisons"]
        ]
        parts.append(f"\nPaired differences, with {result['bootstrap']['level']:.0%} bootstrap intervals (by group in --out and --json)")
        parts.append(text_table(["", "images", *METRICS], rows))
    return "\n".join(parts)


def evaluation_markdown(result: dict[str, Any]) -> str:
    """evaluate()'s result as Markdown tables."""
    tables = result["predictions"]
    parts = ["# Evaluation", _escaped(settings_text(result))]
    if not result["same_images"]:
        parts.append(f"**{DIFFERENT_IMAGES}**")
    for name in dict.fromkeys(name for table in tables for name in groups_of(table)):
        rows = []
        for table in tables:
            row = groups_of(table).get(name)
            if row is not None:
                interval = table["intervals"] if name == "overall" else None
                cells = [number(row[figure]) + _interval(interval and interval[figure]) for figure in METRICS]
                rows.append([_escaped(table["label"]), row["count"], *cells])
        parts += [f"## {_escaped(name)}", markdown_table(["", "images", *METRICS], rows)]
    if result["comparisons"]:
        level, resamples = result["bootstrap"]["level"], result["bootstrap"]["resamples"]
        note = f"b − a on the images that both have; {level:.0%} bootstrap intervals ({resamples} resamples); the share where b is better."
        rows = [
            [_escaped(f"{one['a']} → {one['b']}"), _escaped(name), row["count"], *(_difference(row[figure], True) for figure in METRICS)]
            for one in result["comparisons"]
            for name, row in groups_of(one).items()
        ]
        parts += ["## Paired differences", note, markdown_table(["a → b", "group", "images", *METRICS], rows)]
    problems = [
        f"- {_escaped(table['label'])}: {len(table[kind])} {kind_name(kind)}, {effect}: {', '.join(f'`{name}`' for name in table[kind])}"
        for table in tables
        for kind, effect in EFFECTS.items()
        if table[kind]
    ]
    if problems:
        parts += ["## What no figure includes", "\n".join(problems)]
    return "\n\n".join(parts) + "\n"


def groups_of(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of a method or a comparison, by the name that people read, in the order of every table."""
    return {"overall": table["overall"], **table["subsets"], **{f"{name} %": row for name, row in table["ranges"].items()}}


def settings_text(result: dict[str, Any]) -> str:
    """What was measured and how, in a line."""
    background = "real background pasted in" if result["real_background"] else "background as predicted"
    size = "own size" if result["size"] is None else f"{result['size']} px"
    again = f" {pluralize(len(result['named_again']), 'composite')} named more than once, counted once." if result["named_again"] else ""
    return f"Convention {result['convention']}, {size}, {background}. {result['data']}, {result['list']}.{again}"


def kind_name(kind: str) -> str:
    """A key of EFFECTS as people read it."""
    return kind.replace("_", " ").replace("psnr", "PSNR")


def _difference(found: dict[str, Any] | None, share: bool = False) -> str:
    if found is None:
        return "-"
    return f"{found['difference']:+.2f}{_interval((found['low'], found['high']), '+')}" + (f", {found['b_better']:.0%}" if share else "")


def _interval(low_high: Sequence[float] | None, sign: str = "") -> str:
    return "" if low_high is None else f" [{low_high[0]:{sign}.2f}, {low_high[1]:{sign}.2f}]"


def _escaped(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", text)


def _listed(names: list[str], shown: int) -> str:
    more = f" and {len(names) - shown} more (--json names all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
