"""Single-file checkpoints: safetensors whose metadata says what they hold (DESIGN.md, contracts)."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

KINDS = ("harmony_vae", "autoencoder", "unet", "classifier")
DIRECTIONS = ("harmonize", "invert")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of one weights file and what its metadata says of them (None where it says nothing)."""

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        return self.metadata.get("diffharmony.kind")

    @property
    def direction(self) -> str | None:
        return self.metadata.get("diffharmony.direction")

    @property
    def prediction_type(self) -> str | None:
        return self.metadata.get("diffharmony.prediction_type")

    @property
    def config(self) -> dict[str, Any] | None:
        return self._json("diffharmony.config")

    @property
    def training(self) -> dict[str, Any] | None:
        return self._json("diffharmony.training")

    def _json(self, key: str) -> dict[str, Any] | None:
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"metadata {key!r} of {self.path} must be JSON, got {text[:80]!r} ({error}). Write the file again."
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"metadata {key!r} of {self.path} must be a JSON object, got {text[:80]!r}. Write the file again.")
        return value


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success, so that it appears whole or not at all.

    Raises: FileNotFoundError when the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder of {path.name!r} must exist, looked in {path.parent.resolve()}. Create it first.")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_checkpoint(
    path: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    *,
    kind: str,
    config: dict[str, Any],
    direction: str = "harmonize",
    prediction_type: str | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write one `.safetensors` file, whole or not at all.

    tensors: parameter name -> tensor, any shape, float16 or float32. training: a JSON-able summary of how they came to be.
    Raises: ValueError for an unknown kind, direction or suffix; FileNotFoundError when the folder does not exist.
    Source: DESIGN.md, "Contracts".
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"checkpoint name must end in .safetensors, got {path.name!r}. Rename it.")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}. Pass one of these.")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}. Pass one of these.")
    metadata = {
        "format": "pt",
        "diffharmony.kind": kind,
        "diffharmony.direction": direction,
        "diffharmony.config": json.dumps(config),
    }
    if prediction_type is not None:
        metadata["diffharmony.prediction_type"] = prediction_type
    if training is not None:
        metadata["diffharmony.training"] = json.dumps(training)
    with written_whole(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read one weights file: `.safetensors`, or a pickle (`.bin`, `.pt`, `.pth`, `.ckpt`) with `weights_only=True`.

    Raises: FileNotFoundError when there is no such file; ValueError when it is damaged, empty, holds anything but
    tensors, or has another suffix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path.name!r} must exist, looked in {path.parent.resolve()}. Check the path.")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    elif path.suffix in PICKLE_SUFFIXES:
        tensors, metadata = _read_pickle(path), {}
    else:
        raise ValueError(
            f"weights file must end in .safetensors, {', '.join(PICKLE_SUFFIXES)}, got {path.name!r}. Pass a weights file."
        )
    if not tensors:
        raise ValueError(f"weights file must hold at least one tensor, got none in {path}. Fetch or write it again.")
    return Checkpoint(path, tensors, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file, got {path.stat().st_size} bytes that cannot be read ({error}). "
            "It is damaged or cut off: copy or download it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must be a whole PyTorch file that holds tensors only, but it cannot be read with weights_only=True "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
            "Copy it again, or convert it to safetensors where you trust it."
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{path} must hold a state dict of tensors, got {type(loaded).__name__}. Save model.state_dict() instead.")
    return loaded
