"""PyTorch's pickles: state dicts of tensors and nothing else, read without running what is in them, in memory that their size bounds."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

ZIP = b"PK\x03\x04"
OBJECT = "data.pkl"  # of a zip file, the pickle that names the tensors
OLD_PICKLES = 4  # of a file that is no zip: magic number, protocol, system, the object; the tensors' bytes follow
# torch.load lets them be made with weights_only=True, of any length, of a few bytes in the file
GROWING = ("builtins bytearray", "__builtin__ bytearray")


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of `torch.save`, by name, on the CPU; of {"state_dict": …} or {"model": …} those inside.

    Raises: ValueError for a damaged file, one that holds anything but a state dict of whole tensors, or would grow on being read.
    """
    try:
        with path.open("rb") as file:
            for stream in _object_of(file):
                _refuse_growing(stream)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any damage: pickle, zipfile and torch raise many kinds, MemoryError for a length that is none
        raise ValueError(
            f"{path} must be a whole PyTorch file that holds tensors only, but it cannot be read with weights_only=True ({_reason(error)}). "
            "Copy it again, or convert it to safetensors where you trust it."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(name, str) and _is_whole(value) for name, value in loaded.items()):
        raise ValueError(f"{path} must hold a state dict of tensors, got {_found(loaded)}. Save model.state_dict() instead.")
    stored, shown = path.stat().st_size, sum(tensor.numel() * tensor.element_size() for tensor in loaded.values())
    if shown > stored:
        raise ValueError(
            f"{path} must hold every value of its tensors, {shown} bytes, got {stored} bytes for all of them. Save each tensor's clone()."
        )
    return loaded


def _object_of(file: BinaryIO) -> Iterator[BinaryIO]:
    """The streams, one pickle each, that name a file's objects. Raises: ValueError for a zip file that is larger unpacked."""
    if file.read(len(ZIP)) != ZIP:
        file.seek(0)
        yield from [file] * OLD_PICKLES
        return
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(entry.file_size for entry in entries) > size:
            raise ValueError("it is a compressed archive, which torch.save never writes")
        for entry in entries:
            if entry.filename.rpartition("/")[2] == OBJECT:
                with archive.open(entry) as stream:
                    yield stream


def _refuse_growing(stream: BinaryIO) -> None:
    for code, value, _ in pickletools.genops(stream):
        if code.name == "GLOBAL" and value in GROWING:
            raise pickle.UnpicklingError(value)


def _is_whole(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout is torch.strided and value.device.type == "cpu"


def _found(loaded: Any) -> str:
    if not isinstance(loaded, dict):
        return type(loaded).__name__
    name, value = next((name, value) for name, value in loaded.items() if not (isinstance(name, str) and _is_whole(value)))
    what = f"a {str(value.layout).removeprefix('torch.')} tensor on {value.device}" if isinstance(value, torch.Tensor) else type(value).__name__
    return f"{what} under {str(name)[:80]!r}"


def _reason(error: Exception) -> str:
    # torch's own text is advice to load the file without weights_only, in escape codes
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or pickles other objects than tensors"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
