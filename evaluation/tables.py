"""Tables of figures, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .evaluator import PROBLEMS
from .metrics import FIGURES


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
    background = "real background pasted in" if result["real_background"] else "background as predicted"
    size = "own size" if result["size"] is None else f"{result['size']} px"
    parts = [f"Convention {result['convention']}, {size}, {background}. {result['data']}, {result['list']}."]
    for folder in result["predictions"]:
        groups = {"overall": folder["overall"], **folder["subsets"], **{f"{name} %": row for name, row in folder["ranges"].items()}}
        rows = [[name, str(row["count"]), *(number(row[figure]) for figure in FIGURES)] for name, row in groups.items()]
        parts.append(f"\n{folder['folder']}\n" + text_table(["", "images", *FIGURES], rows))
        for kind in (*PROBLEMS, "without_foreground"):
            if folder[kind]:
                effect = "left out of fMSE" if kind == "without_foreground" else "left out of every figure"
                parts.append(f"{len(folder[kind])} {kind.replace('_', ' ')}, {effect}: {_listed(folder[kind], names_shown)}")
    return "\n".join(parts)


def _listed(names: list[str], shown: int) -> str:
    more = f" and {len(names) - shown} more (--json names all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
