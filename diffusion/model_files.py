"""Which models lie in folders, told by what is in the files: not by their names, and without reading them whole."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..common.checkpoint import PROMPT_KEY, identify, read_checkpoint

SUFFIXES = (".safetensors", ".sft")  # a pickle would have to be read whole, and executed in part


class ModelFile(NamedTuple):
    """A weights file and the name that it is chosen by: its path below a folder for models."""

    name: str
    path: Path


class Pair(NamedTuple):
    """A UNet and the Harmony-VAE that its latents are decoded by."""

    unet: ModelFile
    vae: ModelFile

    @property
    def name(self) -> str:
        return f"{self.unet.name} + {self.vae.name}"


def files_of_kind(files: Iterable[ModelFile], kind: str, direction: str | None = None) -> list[ModelFile]:
    """Those that hold a model of a kind (`common.checkpoint.KINDS`), newest first. direction: and of that direction, or of none.

    A UNet counts where its file has its empty prompt too. What cannot be read counts as no model: its loader says what is wrong with it.
    """
    dated = []
    for file in files:
        try:
            found, of, date = _told(file.path)
        except OSError:  # gone, or not ours to read
            continue
        if found == kind and (direction is None or of in (None, direction)):
            dated.append((-date, file))
    return [file for _, file in sorted(dated)]


def pairs(unets: Iterable[ModelFile], vaes: Iterable[ModelFile]) -> list[Pair]:
    """Every UNet with the Harmony-VAEs that may belong to it, in their order: those of a folder of the same name, where there are any."""
    vaes, found = list(vaes), []
    for unet in unets:
        beside = [vae for vae in vaes if _folder(vae) == _folder(unet)]
        found += [Pair(unet, vae) for vae in beside or vaes]
    return found


def _folder(file: ModelFile) -> str:
    return file.name.replace("\\", "/").rpartition("/")[0]


def _told(path: Path) -> tuple[str | None, str | None, float]:
    """(kind, direction, date) of a file; kind None for what is no model, or an incomplete one. Raises: OSError."""
    stat = path.stat()
    kind, direction = _read(path, stat.st_mtime_ns, stat.st_size) if path.suffix.lower() in SUFFIXES else (None, None)
    return kind, direction, stat.st_mtime


@lru_cache(maxsize=4096)
def _read(path: Path, changed: int, size: int) -> tuple[str | None, str | None]:
    try:
        checkpoint = read_checkpoint(path, values=False)
    except ValueError:
        return None, None
    kind = identify(checkpoint.tensors)
    complete = kind != "unet" or PROMPT_KEY in checkpoint.tensors
    return (kind if complete and checkpoint.kind in (None, kind) else None), checkpoint.direction
