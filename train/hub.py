"""One model of a Hub repository as a local path: what it needs is downloaded, cached, and found again without a network."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

from ..common.checkpoint import PICKLE_SUFFIXES
from ..diffusion.convert import WITHOUT_EMBEDDING
from ..diffusion.unet import PROMPT_FILE
from ..harmony_vae.checkpoint import VAE_FOLDERS

logger = logging.getLogger("diffharmony")

Part = Literal["vae", "unet"]

ANSWER_WITHIN = 10.0  # seconds
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
FOLDERS = {"vae": VAE_FOLDERS, "unet": ("unet",)}
# The repository's name; after a colon a folder or a weights file in it.
HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<inside>[^:\\]+))?")
WEIGHTS = r"{}(\.fp16)?(-\d+-of-\d+)?(\.fp16)?\.(safetensors|bin)(\.index(\.fp16)?\.json)?"


class HubModel(NamedTuple):
    """A model of a Hub repository: `inside` is a folder or a weights file in it, or empty."""

    repository: str
    inside: str


def parse_hub_id(text: str) -> HubModel | None:
    """`owner/name`, `owner/name:folder` or `owner/name:file.safetensors`; None for what cannot be one, such as a file's path."""
    match = HUB_ID.fullmatch(text)
    if match is None or match["repository"].endswith(WEIGHT_SUFFIXES):
        return None
    return HubModel(match["repository"], (match["inside"] or "").strip("/"))


def fetch(model: HubModel, part: Part, *, prompt: bool = True) -> Path:
    """The local file or diffusers folder of a Hub repository's VAE or UNet.

    Only what is needed is downloaded: its configuration, one form of its weights and, for a UNet with `prompt`, the scheduler's
    settings and what the empty prompt is computed with. Without a network, or with HF_HUB_OFFLINE=1, the cached copy serves.
    Raises: FileNotFoundError when the repository holds no such model, or it is neither to be reached nor cached.
    """
    try:
        # not list_repo_files: without a network it tries for half a minute
        names = [file.rfilename for file in HfApi().model_info(model.repository, timeout=ANSWER_WITHIN).siblings or ()]
    except Exception as error:  # the Hub's client raises its own kinds, those of its HTTP library and the system's
        return _from_cache(model, part, prompt, error)
    place, wanted = _choose(names, model.inside, part, prompt)
    if place is None or not wanted:
        raise FileNotFoundError(
            f"Hub repository {model.repository} must hold {_described(model, part)}, got {', '.join(sorted(names)[:8]) or 'nothing'}. "
            "Name its folder or file after a colon: owner/name:folder."
        )
    try:
        return Path(snapshot_download(model.repository, allow_patterns=[_literal(name) for name in wanted])) / place
    except Exception as error:  # as above
        return _from_cache(model, part, prompt, error)


def _from_cache(model: HubModel, part: Part, prompt: bool, error: Exception) -> Path:
    reason = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else (str(error).strip() or type(error).__name__).splitlines()[0]
    snapshot = _snapshot(model, part)
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()] if snapshot else []
    place, wanted = _choose(names, model.inside, part, prompt)
    if place is None or not wanted:
        raise FileNotFoundError(
            f"Hub repository {model.repository} must be reachable or cached, got neither {_described(model, part)} in the cache "
            f"{HF_HUB_CACHE} nor an answer from the Hub ({reason}). Run the same command once with a network (and, for a private or "
            "gated repository, HF_TOKEN set), or pass a local folder or file."
        ) from error
    level = logging.INFO if HF_HUB_OFFLINE else logging.WARNING
    logger.log(level, "Taking %s from the cache, without asking the Hub (%s)", model.repository, reason)
    return snapshot / place


def _snapshot(model: HubModel, part: Part) -> Path | None:
    """The cached copy that holds the model's first file."""
    names = [model.inside] if _is_file(model.inside) else [f"{folder}config.json" for folder in _places(model.inside, part)]
    for name in names:
        found = try_to_load_from_cache(model.repository, name)
        if isinstance(found, str):
            return Path(found).parents[len(PurePosixPath(name).parts) - 1]
    return None


def _choose(names: Iterable[str], inside: str, part: Part, prompt: bool) -> tuple[str | None, list[str]]:
    """Where in a repository of these files the model is (None: nowhere), and the files that it needs (none: no weights)."""
    present = set(names)
    if _is_file(inside):
        return (inside, [inside]) if inside in present else (None, [])
    for folder in _places(inside, part):
        if f"{folder}config.json" not in present:
            continue
        weights = _weights(present, folder, "diffusion_pytorch_model")
        if not weights:
            return folder, []
        wanted = [f"{folder}config.json", *weights]
        if part == "unet":
            wanted += _beside_unet(present, folder, prompt)
        return folder, wanted
    return None, []


def _beside_unet(present: set[str], folder: str, prompt: bool) -> list[str]:
    """What a diffusers UNet's own folder does not say: prediction type, and the empty prompt or what computes it."""
    if f"{folder}{PROMPT_FILE}" in present:
        return [f"{folder}{PROMPT_FILE}"]
    above = PurePosixPath(folder).parent.as_posix()
    pipeline = "" if above == "." else f"{above}/"
    wanted = [f"{pipeline}scheduler/scheduler_config.json"]
    if prompt:
        text_encoder, tokenizer = (f"{pipeline}{name}/" for name in WITHOUT_EMBEDDING)
        wanted += [f"{text_encoder}config.json", *_weights(present, text_encoder, "(?:pytorch_)?model")]
        wanted += [name for name in present if name.startswith(tokenizer)]
    return sorted(name for name in wanted if name in present)


def _weights(present: set[str], folder: str, stem: str) -> list[str]:
    """One form of a model's weights: whole precision before half, safetensors before pickles; every shard of it."""
    pattern = re.compile(re.escape(folder) + WEIGHTS.format(stem))
    forms: dict[tuple[bool, bool], list[str]] = {}
    for name in sorted(present):
        if pattern.fullmatch(name):
            forms.setdefault((".fp16" in name, ".safetensors" not in name), []).append(name)
    return forms[min(forms)] if forms else []


def _places(inside: str, part: Part) -> list[str]:
    folder = f"{inside}/" if inside else ""
    return [folder, *(f"{folder}{name}/" for name in FOLDERS[part])]


def _is_file(inside: str) -> bool:
    return inside.endswith(WEIGHT_SUFFIXES)


def _literal(name: str) -> str:
    """A file's name as a pattern that matches nothing else."""
    return re.sub(r"([\[*?])", r"[\1]", name)


def _described(model: HubModel, part: Part) -> str:
    if _is_file(model.inside):
        return model.inside
    return " or ".join(f"{folder}config.json with weights" for folder in _places(model.inside, part))
