"""What the reports of this package do as commands: options, lines for people, JSON for scripts and in a folder."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...common.files import written_whole


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write `<out>/report.json`; the folder is made where missing."""
    out.mkdir(parents=True, exist_ok=True)
    with written_whole(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_report(options: type, make: Callable[[Any], dict[str, Any]], text: Callable[[dict[str, Any]], str]) -> None:
    """Read `options` (a dataclass with `json`) from the command line, make the report, and print it. Errors in what the user gave end
    with one line."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = tyro.cli(options, description=options.__doc__)
    try:
        report = make(config)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(text(report), file=sys.stderr if config.json else sys.stdout, flush=True)
    if config.json:
        print(json.dumps(report))
