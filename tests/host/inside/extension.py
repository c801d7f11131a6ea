"""Makes a script run inside a host, without its server: `python <script> ...` in the host's folder, with the host's Python."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load() -> ModuleType:
    """Start the host's modules on the CPU, then import this repository by its path, as the host does."""
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    repository = Path(__file__).resolve().parents[3]
    # The host's name for it is no Python identifier either: only relative imports can work.
    name = str(repository).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, repository / "__init__.py", submodule_search_locations=[str(repository)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def part(extension: ModuleType, dotted: str) -> ModuleType:
    """A module of the extension: part(extension, "nodes.host_vae")."""
    return importlib.import_module(f".{dotted}", extension.__name__)
