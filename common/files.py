"""Files that appear whole or not at all, and JSON; without PyTorch, which takes seconds and half a gigabyte to import."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_SUFFIXES = SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES  # in capitals as well
LONGEST = 300  # characters of an error that another quotes


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by its name, in any case."""
    return path.suffix.lower() in SAFETENSORS_SUFFIXES


@contextmanager
def written_whole(path: str | os.PathLike, failures: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success, so that it appears whole or not at all.

    failures: what the block raises, besides the system's own errors, when the file cannot be written.
    Raises: FileNotFoundError when the folder of `path` does not exist; PermissionError when it cannot be written to; OSError when
    the file cannot be written whole, as on a full disk.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder of {path.name!r} must exist, looked in {path.parent.resolve()}. Create it first.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise _not_writable(path.parent, f"folder of {path.name!r}", error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except (OSError, *failures) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # one of ours, which says what to do
        raise not_written(path, getattr(error, "strerror", None) or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def not_written(path: Path, reason: str) -> OSError:
    """What to raise for a file that could not be written: the system's own error names none."""
    return OSError(f"{path} must be written whole, got an error ({reason}). Free space there, or choose another place.")


def make_folder(path: Path, name: str) -> None:
    """Make a folder that results go to, where missing. name: what errors call it. Raises: as check_folder."""
    check_folder(path, name)
    path.mkdir(parents=True, exist_ok=True)


def check_folder(path: Path, name: str) -> None:
    """Refuse a folder that results could not go to, before any work is done. It need not exist.

    Raises: ValueError when it is a file, or in one; PermissionError when it cannot be written to, or not be made.
    """
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not place.is_dir():
        found = f"the file {path}" if place == path else f"{path}, in the file {place}"
        raise ValueError(f"{name} must be a folder, got {found}. Name another folder.")
    check_writable(place, f"folder {name}")


def check_writable(folder: Path, name: str) -> None:
    """Raises: PermissionError when no file can be written to a folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _not_writable(folder, name, error) from error


def _not_writable(folder: Path, name: str, error: OSError) -> PermissionError:
    return PermissionError(f"{name} must be one that can be written to, got {folder} ({error.strerror}). Choose another.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises: FileNotFoundError when there is none; ValueError when it holds something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} must exist, looked in {path.parent.resolve()}. Pass a diffusers folder or a .safetensors file.")
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got something else ({error}). Copy it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(value).__name__}. Copy it again.")
    return value


def parse_json(text: str | bytes) -> Any:
    """A JSON value. Raises: ValueError for what is none, in one line, or nests deeper than can be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except ValueError as error:  # damaged UTF-8 and numbers of thousands of digits too
        raise ValueError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line of bounded length; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST]
