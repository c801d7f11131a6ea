"""What every benchmark does as a command: options, the table, the JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def run_benchmark(options: type, run: Callable[[Any], Any], table: Callable[[Any], str], description: str) -> None:
    """Read `options` (a dataclass with `out`) from the command line, run, print the table, and write what `run` gave to `out`."""
    import tyro

    from ..common.checkpoint import written_whole

    config = tyro.cli(options, description=description)
    results = run(config)
    print(table(results))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(config.out) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"Wrote {config.out}")
