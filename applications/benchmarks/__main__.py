"""python -m diffharmony.applications.benchmarks [candidates | decode | evaluate | loader | page | precision | seams | training_step] [--help]; decode when
no name is given, page for `make bench`."""

import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))

if __name__ == "__main__":
    name = sys.argv.pop(1) if sys.argv[1:2] and not sys.argv[1].startswith("-") else "decode"
    if name not in NAMES:
        sys.exit(f"benchmark must be one of {', '.join(NAMES)}, got {name!r}. Leave it out for decode.")
    importlib.import_module(f".{name}", __package__).main()
