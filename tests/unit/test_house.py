"""The house: imports run downwards only, late ones too; no circles; rooms of a size; the package has every folder that holds code."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from diffharmony.common.assets import ROOT

# Each floor may import those above it in this list, and none beside or below it but its own room.
FLOORS = (
    {"common"},
    {"dataset", "harmony_vae", "refinement", "classifier", "synthetic"},
    {"diffusion", "evaluation"},
    {"train", "inverse"},
    {"nodes", "applications"},
    {"commands"},
    {"__init__", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_MODULES, MOST_FOLDERS = 15, 20


def tracked() -> list[Path]:
    """The repository's own Python files outside tests/, relative to its root."""
    rooms = (path for room in FLOOR for path in (ROOT / room).rglob("*.py"))
    return [path.relative_to(ROOT) for path in (*rooms, ROOT / "__init__.py", ROOT / "__main__.py")]


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def exists(parts: tuple[str, ...]) -> bool:
    return (ROOT.joinpath(*parts).with_suffix(".py")).is_file() or (ROOT.joinpath(*parts) / "__init__.py").is_file()


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, anywhere in it, also those that name only types."""
    package = path.parent.parts
    found = set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= len(package) + 1, f"{path}:{node.lineno} imports from above the package"
            base = package[: len(package) - node.level + 1]
            module = base + tuple((node.module or "").split(".") if node.module else ())
            found |= {(*module, alias.name) if exists((*module, alias.name)) else module for alias in node.names}
    return found


@pytest.fixture(scope="module")
def imports() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    return {module_of(path): imports_of(path) for path in tracked()}


def test_imports_run_downwards_only(imports):
    upwards = [
        f"{'.'.join(module)} imports {'.'.join(target)}"
        for module, targets in imports.items()
        for target in targets
        if target and target[0] != module[0] and FLOOR[target[0]] >= FLOOR[module[0]]
    ]
    assert not upwards


def test_no_circles(imports):
    """Modules that nothing left imports are taken away until none is left; what stays are the circles."""
    left = {module: {target for target in targets if target in imports and target != module} for module, targets in imports.items()}
    while True:
        free = [module for module, targets in left.items() if not targets & left.keys()]
        if not free:
            break
        for module in free:
            del left[module]
    assert not left


def test_every_import_inside_the_package_is_relative():
    absolute = [
        f"{path}:{node.lineno}"
        for path in tracked()
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "diffharmony"
    ]
    assert not absolute


def test_only_nodes_import_the_host():
    host = {"comfy", "comfy_api", "folder_paths", "nodes", "server", "execution", "node_helpers"}
    found = []
    for path in tracked():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{path}: {name}" for name in names if name.split(".")[0] in host and path.parts[0] != "nodes"]
    assert not found


def test_rooms_of_a_size():
    counts = Counter(path.parent.as_posix() for path in tracked() if path.name not in ("__init__.py", "__main__.py"))
    tests = Counter(path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
    assert not {folder: count for folder, count in counts.items() if count > MOST_MODULES}
    assert not {folder: count for folder, count in tests.items() if count > MOST_MODULES + 1}  # and a conftest.py
    folders = [path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__")) and path.name not in IGNORED]
    assert len(folders) <= MOST_FOLDERS, sorted(folders)


IGNORED = {"out", "runs", "build", "diffharmony.egg-info"}  # what .gitignore names


def test_every_room_says_what_may_live_there():
    folders = {path.parent for path in tracked() if path.parent.parts}
    without = [folder.as_posix() for folder in folders if not ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8")))]
    assert not without


def test_the_package_has_every_room():
    packages = {"diffharmony", *(".".join(("diffharmony", *path.parent.parts)) for path in tracked() if path.parent.parts)}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text[text.index("packages = ") + len("packages = ") : text.index("]", text.index("packages = ")) + 1])
    assert sorted(listed) == sorted(packages)


def test_files_of_a_size():
    lengths = {path.as_posix(): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in tracked()}
    assert not {path: lines for path, lines in lengths.items() if lines > 400}
