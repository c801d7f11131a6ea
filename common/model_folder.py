"""A model's weights with the configuration beside them: one file, or a diffusers folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, read_checkpoint, read_json

FOLDER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
HALF_WEIGHTS = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin")


def open_model(path: Path, what: str, inner: Sequence[str] = ()) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The weights at `path` and, for a folder or a diffusers file in one, the config.json beside them.

    what: what errors call the folder. inner: folders that stand for a folder without a config.json of its own, the first that has one.
    Raises: FileNotFoundError when path, weights or config are missing; ValueError for what cannot be read.
    """
    if path.is_dir():
        if not (path / "config.json").is_file():
            path = next((path / name for name in inner if (path / name / "config.json").is_file()), path)
        weights = next((path / name for name in FOLDER_WEIGHTS + HALF_WEIGHTS if (path / name).is_file()), None)
        if weights is None or not (path / "config.json").is_file():
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"{what} folder must hold config.json and {' or '.join(FOLDER_WEIGHTS)}, looked in {path.resolve()} and found "
                f"{found}. Pass the folder that holds both."
            )
        return read_checkpoint(weights), read_json(path / "config.json")
    checkpoint = read_checkpoint(path)
    beside = path.parent / "config.json"
    if checkpoint.config is None and path.name in FOLDER_WEIGHTS + HALF_WEIGHTS and beside.is_file():
        return checkpoint, read_json(beside)
    return checkpoint, None


def refuse_mislabelled(checkpoint: Checkpoint, found: str) -> None:
    """Raises: ValueError for a file whose tensors are another kind of model than its metadata says."""
    raise ValueError(
        f"{checkpoint.path} must hold what its metadata says, diffharmony.kind {checkpoint.kind!r}, got {found}. "
        "It was labelled wrongly: get or write it again."
    )
