"""Single-file checkpoints: safetensors whose metadata says what they hold (DESIGN.md, contracts)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

from .direction import check_direction
from .files import PICKLE_SUFFIXES, WEIGHT_SUFFIXES, first_line, is_safetensors, parse_json, read_json, written_whole
from .weights.hub import local_path
from .weights.layout import CONFIG, FORMS, INVERSE, Layout, is_weights
from .weights.pickles import read_pickle

KINDS = ("harmony_vae", "autoencoder", "unet", "classifier", "refinement")
DTYPES = (torch.float16, torch.float32)
LARGEST_NUMBER = 2**20  # in a config; the largest of a real one is a vocabulary's 49408
SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}  # of weights
METADATA_TENSOR = "diffharmony.metadata"
PROMPT_KEY = "empty_prompt_embeds"  # of a UNet's file, beside its weights
PARALLEL_PREFIX = "module."  # what DataParallel puts before every name
# What a checkpoint is: kind, what errors call it, and how names must begin, each of these some. The first that fits.
TELLING_NAMES = (
    ("harmony_vae", "a Harmony-VAE (pass it as the VAE)", ("conditional_encoder.",)),
    ("stable_diffusion", "a Stable Diffusion checkpoint in the original layout", ("model.diffusion_model.", "first_stage_model.")),
    ("original_unet", "a UNet in the original Stable Diffusion layout (pass it as the UNet)", ("model.diffusion_model.",)),
    ("original_vae", "a VAE in the original Stable Diffusion layout (pass it as the VAE)", ("first_stage_model.",)),
    ("original_vae", "a VAE in the original Stable Diffusion layout (pass it as the VAE)", ("encoder.down.",)),
    ("autoencoder", "a plain VAE (no conditional_encoder.*, no latent_skip_conv.*; pass it as the VAE)", ("encoder.down_blocks.",)),
    ("unet", "a UNet (pass it as the UNet)", ("time_embedding.",)),
    ("refinement", "a refinement model (pass it as the refinement stage)", ("conv_norm_out.",)),
    ("classifier", "a classifier (pass it as the classifier)", ("backbone.",)),
    ("classifier", "a classifier (pass it as the classifier)", ("layer1.",)),
)


class NotFiniteError(ValueError):
    """Weights that are infinite or NaN, or would be in the dtype that they are to be saved in."""


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
        config = self._json("diffharmony.config") or self._json("config")
        return None if config is None else _of_a_model(config, self.path)

    @property
    def training(self) -> dict[str, Any] | None:
        return self._json("diffharmony.training")

    def _json(self, key: str) -> dict[str, Any] | None:
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            value = parse_json(text)
        except ValueError as error:
            raise ValueError(
                f"metadata {key!r} of {self.path} must be JSON, got {text[:80]!r} ({error}). Write the file again."
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"metadata {key!r} of {self.path} must be a JSON object, got {text[:80]!r}. Write the file again.")
        return value


def write_checkpoint(
    path: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    *,
    kind: str,
    config: Mapping[str, Any],
    direction: str = "harmonize",
    prediction_type: str | None = None,
    dtype: torch.dtype | None = None,
    training: dict[str, Any] | None = None,
    extra: dict[str, str] | None = None,
) -> None:
    """Write one `.safetensors` file, whole or not at all.

    tensors: parameter name -> tensor, any shape. dtype: float16 or float32, of the floating ones; None leaves them.
    training: a JSON-able summary of how they came to be. extra: further metadata, by name after `diffharmony.`.
    Raises: ValueError for an unknown kind, direction, dtype or suffix; NotFiniteError for weights that are not; FileNotFoundError when
    the folder does not exist.
    Source: DESIGN.md, "Contracts".
    """
    path = Path(path)
    if not is_safetensors(path):
        raise ValueError(f"checkpoint name must end in .safetensors, got {path.name!r}. Rename it.")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}. Pass one of these.")
    check_direction(direction)
    if dtype is not None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}. Pass one of these.")
        tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFiniteError(f"{name} must be finite in {tensor.dtype}, got infinity or NaN. Save in torch.float32, or retrain.")
    metadata = {"format": "pt", **describe(kind, direction, config)}
    if prediction_type is not None:
        metadata["diffharmony.prediction_type"] = prediction_type
    if training is not None:
        metadata["diffharmony.training"] = json.dumps(training)
    metadata.update({f"diffharmony.{name}": text for name, text in (extra or {}).items()})
    with written_whole(path, failures=(SafetensorError,)) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)


def describe(kind: str, direction: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that every file of ours carries; diffusers' private fields of the config are left out."""
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    return {"diffharmony.kind": kind, "diffharmony.direction": direction, "diffharmony.config": json.dumps(public)}


def metadata_tensor(metadata: dict[str, str]) -> torch.Tensor:
    """Metadata as a uint8 tensor [N], for a state dict that somebody else will save (as METADATA_TENSOR)."""
    return torch.frombuffer(bytearray(json.dumps(metadata).encode()), dtype=torch.uint8)


def read_checkpoint(path: str | os.PathLike, *, values: bool = True) -> Checkpoint:
    """Read one weights file: `.safetensors` or `.sft`, or a pickle (`.bin`, `.pt`, `.pth`, `.ckpt`) with `weights_only=True`; the suffix
    in any case.

    values: False gives tensors without values, on the meta device, where that is quicker.
    Raises: FileNotFoundError when there is no such file; ValueError when it is damaged, empty, holds anything but
    tensors, or has another suffix.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path's own raises for a name that is too long
        raise FileNotFoundError(f"weights file {path.name!r} must exist, looked in {path.parent.resolve()}. Check the path.")
    if is_safetensors(path):
        tensors, metadata = _read_safetensors(path, values)
    elif path.suffix.lower() in PICKLE_SUFFIXES:
        tensors, metadata = read_pickle(path), {}
    else:
        raise ValueError(
            f"weights file must end in {', '.join(WEIGHT_SUFFIXES)}, got {path.name!r}. Pass a weights file."
        )
    carried = tensors.pop(METADATA_TENSOR, None)
    if carried is not None:
        metadata = {**_carried_metadata(carried, path), **metadata}
    if not tensors:
        raise ValueError(f"weights file must hold at least one tensor, got none in {path}. Fetch or write it again.")
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return Checkpoint(path, tensors, metadata)


def _carried_metadata(tensor: torch.Tensor, path: Path) -> dict[str, str]:
    try:
        found = parse_json(bytes(tensor.tolist())) if tensor.dtype == torch.uint8 and tensor.ndim == 1 else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"{METADATA_TENSOR} of {path} must be a JSON object of texts, as bytes, got something else. Write the file again.")
    return found


def _read_safetensors(path: Path, values: bool) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) if values or name == METADATA_TENSOR else _without_values(file, name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # dtypes that torch lacks
        raise ValueError(
            f"{path} must be a whole safetensors file, got {path.stat().st_size} bytes that cannot be read ({first_line(error)}). "
            "It is damaged or cut off: copy or download it again."
        ) from error


def _without_values(file: Any, name: str) -> torch.Tensor:
    tensor = file.get_slice(name)
    dtype = SAFETENSORS_DTYPES.get(tensor.get_dtype()) or file.get_tensor(name).dtype
    return torch.empty(tensor.get_shape(), dtype=dtype, device="meta")


def size_along(tensors: Mapping[str, torch.Tensor], name: str, axis: int, path: Path) -> int:
    """A tensor's size, for what is told by it before all are looked at. Raises: ValueError where there is none."""
    if name not in tensors or tensors[name].ndim <= axis:
        found = f"{tensors[name].ndim} dimensions" if name in tensors else "none"
        raise ValueError(f"{path} must hold {name} with at least {axis + 1} dimensions, got {found}. It is incomplete: fetch or write it again.")
    return tensors[name].shape[axis]


def load_strictly(
    build: Callable[[], torch.nn.Module], tensors: dict[str, torch.Tensor], path: Path, dtype: torch.dtype | None = None
) -> Any:
    """Build a model of a checkpoint's config, in eval mode, and give it exactly the checkpoint's tensors.

    dtype: None leaves the model's own.
    Raises: ValueError when the config describes no model, or a tensor is missing, unexpected or of another shape.
    """
    described = _described_by(build, len(tensors), path)
    expected = described.state_dict()
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": sorted(name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape),
        "of another dtype": sorted(
            name for name in expected.keys() & tensors.keys() if expected[name].is_floating_point() and not tensors[name].is_floating_point()
        ),
    }
    found = [f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"{path} must hold exactly the {len(expected)} tensors of a {type(described).__name__} of its config, got {'; '.join(found)}. "
            "The file is incomplete or its config is another model's: fetch or write it again."
        )
    model = build()
    model.load_state_dict(tensors)
    # nn.Module.to: diffusers' own warns of a list of float32 modules that is empty here
    return torch.nn.Module.to(model, dtype=dtype).eval()


def _described_by(build: Callable[[], torch.nn.Module], tensors: int, path: Path) -> torch.nn.Module:
    """The model that a config describes, without values: nothing of its size is taken before a file is seen to fit.

    Raises: ValueError for a config that describes none, or one of many more parameters than the file's `tensors`.
    """
    thread, most, made = threading.get_ident(), 2 * tensors + 100, 0

    def count(*_: Any) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > most:
            raise ValueError(f"more than {most} parameters, for a file of {tensors} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # whatever PyTorch and diffusers stumble over
        found = f"one that cannot be built ({first_line(error)})"
        raise ValueError(f"config of {path} must describe a model, got {found}. Write the file again.") from error
    finally:
        hook.remove()


def _weights_of_folders(layout: Layout) -> list[str]:
    """The names that a folder's weights may have, the first choice first."""
    return [
        f"{stem}{name}" for half, kind in FORMS for stem in layout.stems for name in (f"{half}.{kind}", f".{kind}.index{half}.json")
    ]


def open_model(path: str | os.PathLike, layout: Layout, *, values: bool = True) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The weights at `path`, sharded or not, and, for a folder or a diffusers file in one, the config.json beside them.

    path: a file, a folder, the authors' archive as it unpacks, or a model on the Hub (`weights.hub`). Of what lies in the archive's
    `inverse/` and says no direction, it is `invert`. values: as of `read_checkpoint`.
    Raises: FileNotFoundError when path, weights or config are missing; ValueError for what cannot be read; as `weights.hub.fetch`.
    """
    path = local_path(path, layout)
    if os.path.isdir(path):
        if not (path / CONFIG).is_file():
            path = next((path / name for name in layout.folders if (path / name / CONFIG).is_file()), path)
        weights = next((path / name for name in _weights_of_folders(layout) if (path / name).is_file()), None)
        if weights is None or not (path / CONFIG).is_file():
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"{layout.what} folder must hold config.json and {layout.stems[0]}.safetensors or {layout.stems[-1]}.bin, looked in {path.resolve()} and found "
                f"{found}. Pass the folder that holds both."
            )
        if weights.suffix != ".json":
            return _of_folder(read_checkpoint(weights, values=values))
        shards = [read_checkpoint(path / name, values=values).tensors for name in _shards(weights)]
        return _of_folder(Checkpoint(weights, {name: tensor for shard in shards for name, tensor in shard.items()}))
    checkpoint = read_checkpoint(path, values=values)
    if checkpoint.config is None and path.name in _weights_of_folders(layout) and (path.parent / CONFIG).is_file():
        return _of_folder(checkpoint)
    return checkpoint, None


def _shards(index: Path) -> list[str]:
    """The weights files that an index names. Raises: ValueError for other names than of files beside it."""
    held = read_json(index).get("weight_map")
    names = list(held.values()) if isinstance(held, dict) else []
    for name in names or [held]:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not is_weights(name):
            raise ValueError(f"weight_map of {index} must name weights files beside it, got {str(name)[:80]!r}. Copy it again.")
    return sorted(set(names))


def _of_folder(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any]]:
    folder = checkpoint.path.absolute().parent
    told = {"diffharmony.direction": "invert"} if folder.parent.name == INVERSE else {}
    return replace(checkpoint, metadata={**told, **checkpoint.metadata}), _of_a_model(read_json(folder / CONFIG), folder / CONFIG)


def _of_a_model(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config again. Raises: ValueError for a number that no model has, and for which lists of that length would be made."""
    held: list[tuple[str, Any]] = list(config.items())
    for name, value in held:  # and what is found in it
        if isinstance(value, dict | list):
            held += [(name, one) for one in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ValueError(f"config of {path} must have whole numbers up to {LARGEST_NUMBER}, got {name!r} with {str(value)[:40]}. Write the file again.")
    return config


def identify(tensors: Collection[str]) -> str | None:
    """The kind of model that tensors are, by their names alone: one of TELLING_NAMES, or None."""
    return _telling(tensors)[0]


def require_kind(checkpoint: Checkpoint, kinds: Sequence[str], wanted: str, advice: str) -> str:
    """What a checkpoint is, by its tensors, where it is one of `kinds`. wanted: what that is called. advice: what to pass for it.

    Raises: ValueError for another kind, or one that is not what its own metadata says.
    """
    found = identify(checkpoint.tensors)
    if checkpoint.kind not in (None, found):
        raise ValueError(
            f"{checkpoint.path} must hold what its metadata says, diffharmony.kind {checkpoint.kind!r}, got {described(checkpoint)}. "
            "It was labelled wrongly: get or write it again."
        )
    if found not in kinds:
        refuse(checkpoint, wanted, advice)
    return found


def refuse(checkpoint: Checkpoint, wanted: str, advice: str, found: str | None = None) -> NoReturn:
    """Raises: ValueError for a file that is not what was wanted. found: what it is, where more is known than its kind."""
    raise ValueError(f"{checkpoint.path} must be {wanted}, got {found or described(checkpoint)}. {advice}")


def described(checkpoint: Checkpoint) -> str:
    """What errors call a checkpoint's tensors."""
    names = sorted(checkpoint.tensors)
    return _telling(names)[1] or f"{len(names)} tensors such as {', '.join(names[:3])}"


def _telling(names: Collection[str]) -> tuple[str | None, str | None]:
    def held(beginning: str) -> bool:
        return any(name.startswith(beginning) for name in names)

    return next(((kind, words) for kind, words, beginnings in TELLING_NAMES if all(map(held, beginnings))), (None, None))
