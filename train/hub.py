"""One model of a Hub repository as a local path: what it needs is downloaded, cached, and found again without a network."""

from __future__ import annotations

import logging
import re
from glob import escape
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

from ..common.checkpoint import WEIGHT_SUFFIXES
from ..diffusion.convert import WITHOUT_EMBEDDING
from ..diffusion.unet import PROMPT_FILE
from ..harmony_vae.checkpoint import VAE_FOLDERS

logger = logging.getLogger("diffharmony")

Part = Literal["vae", "unet"]

ANSWER_WITHIN = 10.0  # seconds
FOLDERS = {"vae": VAE_FOLDERS, "unet": ("unet",)}
# The repository's name; after a colon a folder or a weights file in it.
HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<inside>[^:\\]+))?")
# Of a model's weights the first form that there is: whole precision before half, safetensors before pickles.
FORMS = (("", "safetensors"), ("", "bin"), (".fp16", "safetensors"), (".fp16", "bin"))
WEIGHTS = (  # one file, or its shards, which have been named in two ways, and their index
    "{stem}{half}.{kind}", "{stem}{half}-*-of-?????.{kind}", "{stem}-*-of-?????{half}.{kind}", "{stem}.{kind}.index{half}.json",
)  # fmt: skip


class HubModel(NamedTuple):
    """A model of a Hub repository: `inside` is a folder or a weights file in it, or empty."""

    repository: str
    inside: str


def parse_hub_id(text: str) -> HubModel | None:
    """`owner/name`, `owner/name:folder` or `owner/name:file.safetensors`; None for what cannot be one, such as a file's path."""
    match = HUB_ID.fullmatch(text)
    if match is None or match["repository"].lower().endswith(WEIGHT_SUFFIXES):
        return None
    return HubModel(match["repository"], (match["inside"] or "").strip("/"))


def fetch(model: HubModel, part: Part, *, prompt: bool = True) -> Path:
    """The local file or diffusers folder of a Hub repository's VAE or UNet.

    Only what is needed is downloaded: its configuration, one form of its weights and, for a UNet with `prompt`, the scheduler's
    settings and what the empty prompt is computed with. Without a network, or with HF_HUB_OFFLINE=1, the cached copy serves.
    Raises: FileNotFoundError when the repository holds no such model, or it is neither to be reached nor cached.
    """
    reason = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else None
    try:
        # asked beforehand: a download without a network tries for half a minute
        _ = HF_HUB_OFFLINE or HfApi().model_info(model.repository, timeout=ANSWER_WITHIN)
    except Exception as error:  # the Hub's client raises its own kinds, those of its HTTP library and the system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    found, cause = None, None
    try:
        found = _local_copy(model, part, prompt, offline=reason is not None)
    except Exception as error:  # as above
        cause, reason = error, reason or (str(error).strip() or type(error).__name__).splitlines()[0]
    if found is None:
        raise FileNotFoundError(
            f"Hub repository {model.repository} must hold {_described(model, part)}, and be reachable or cached, got none of it in the "
            f"cache {HF_HUB_CACHE} ({reason or 'the Hub has none'}). Name its folder or file after a colon (owner/name:folder), or run "
            "the same command once with a network (for a private or gated repository with HF_TOKEN set), or pass a local folder or file."
        ) from cause
    if reason is not None:
        level = logging.INFO if HF_HUB_OFFLINE else logging.WARNING
        logger.log(level, "Taking %s from the cache, without asking the Hub (%s)", model.repository, reason)
    return found


def _local_copy(model: HubModel, part: Part, prompt: bool, *, offline: bool) -> Path | None:
    """The model's path once all that it needs is there; None where the repository has no such model."""

    def get(*patterns: str) -> Path:
        return Path(snapshot_download(model.repository, allow_patterns=list(patterns), local_files_only=offline))

    def get_weights(stem: str) -> bool:
        for half, kind in FORMS:
            patterns = [pattern.format(stem=stem, half=half, kind=kind) for pattern in WEIGHTS]
            root = get(*patterns)
            if any(any(root.glob(pattern)) for pattern in patterns):
                return True
        return False

    if _is_file(model.inside):
        path = get(escape(model.inside)) / model.inside
        return path if path.is_file() else None
    places = _places(model.inside, part)
    root = get(*(escape(place) + name for place in places for name in ("config.json", PROMPT_FILE)))
    place = next((place for place in places if (root / place / "config.json").is_file()), None)
    if place is None or not get_weights(f"{escape(place)}diffusion_pytorch_model"):
        return None
    if part == "unet" and not (root / place / PROMPT_FILE).is_file():
        # what a diffusers UNet's own folder does not say: prediction type, and what computes the empty prompt
        above = place.rstrip("/").rpartition("/")[0]
        pipeline = f"{above}/" if above else ""
        text_encoder, tokenizer = (f"{escape(pipeline)}{name}/" for name in WITHOUT_EMBEDDING)
        get(f"{escape(pipeline)}scheduler/scheduler_config.json", *((f"{text_encoder}config.json", f"{tokenizer}*") if prompt else ()))
        if prompt and (root / pipeline / WITHOUT_EMBEDDING[0]).is_dir():
            get_weights(f"{text_encoder}*model")
    return root / place


def _places(inside: str, part: Part) -> list[str]:
    folder = f"{inside}/" if inside else ""
    return [folder, *(f"{folder}{name}/" for name in FOLDERS[part])]


def _is_file(inside: str) -> bool:
    return inside.lower().endswith(WEIGHT_SUFFIXES)


def _described(model: HubModel, part: Part) -> str:
    if _is_file(model.inside):
        return model.inside
    return " or ".join(f"{folder}config.json with weights" for folder in _places(model.inside, part))
