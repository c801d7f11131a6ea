"""What a folder of results was made with: written down in it, so that it is never filled with two sorts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_json, written_whole

SETTINGS = "settings.json"


def claim(folder: Path, settings: Mapping[str, Any], name: str = SETTINGS) -> None:
    """Write down in `<folder>/<name>` what the folder is made with, or refuse one that was begun with other settings.

    settings: JSON values by name. In several processes the first one claims, for all, before any writes (`on_main`).
    Raises: ValueError naming the first setting that differs.
    """
    settings = json.loads(json.dumps(settings))
    file = folder / name
    if file.is_file():
        found = read_json(file)
        for key, value in settings.items():
            if found.get(key) != value:
                before = found.get(key)
                raise ValueError(f"{key} must be {before!r} to go on in {folder}, got {value!r}. Choose another --out, or delete the folder.")
        return
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """Of a checkpoint file's bytes, or of all files of a folder."""
    sha = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()[:16]
