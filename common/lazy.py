"""A package's public names, each loaded with its module when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, names: Mapping[str, str], space: dict[str, Any]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. names: public name -> the module that has it, in `package`, or with a dot before it beside `package`;
    space: the package's globals(), which keep what was loaded.

    No module of the package may bear the name of one of its functions: importing the module would put it in the function's place.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        space[name] = getattr(importlib.import_module(f".{names[name]}", package), name)
        return space[name]

    return load
