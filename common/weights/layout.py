"""Which files make a model: diffusers folders, pipelines, the authors' archive as it unpacks, single files (SPEC §10)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..files import WEIGHT_SUFFIXES

STEM = "diffusion_pytorch_model"
CONFIG = "config.json"
# beside config.json in a UNet's folder that we wrote: the embedding, direction and prediction type
PROMPT_FILE = "empty_prompt_embeds.safetensors"
SCHEDULER, TEXT_ENCODER, TOKENIZER = "scheduler", "text_encoder", "tokenizer"
SCHEDULER_FILE = f"{SCHEDULER}/scheduler_config.json"
# Of a model's weights the first form that there is: whole precision before half, safetensors before pickles.
FORMS = (("", "safetensors"), ("", "bin"), (".fp16", "safetensors"), (".fp16", "bin"))
INVERSE = "inverse"  # the archive's folder of the inverse models


class Layout(NamedTuple):
    """Where a kind of model lies.

    what: its name in errors. folders: those that stand for a folder without a config.json of its own, the first that has one.
    in_pipeline: whether the scheduler, text encoder and tokenizer of the pipeline around it belong to it.
    """

    what: str
    folders: tuple[str, ...] = ()
    in_pipeline: bool = False


VAE = Layout("VAE", ("condition_vae", "vae"))
UNET = Layout("UNet", ("unet", "base/unet"), in_pipeline=True)
REFINEMENT = Layout("refinement", ("refinement",))
CLASSIFIER = Layout("classifier")
# The folder of ComfyUI's models/ that a kind of model belongs in.
MODEL_FOLDERS = {"harmony_vae": "vae", "unet": "diffusion_models", "classifier": "harmony_classifiers", "refinement": "harmony_refinement"}


class Files(NamedTuple):
    """place: the file or folder to load. names: all files that this takes."""

    place: str
    names: list[str]


def pipelines(folder: str) -> list[str]:
    """Where the text encoder of a UNet's folder may lie: in the pipeline that it is a part of; the archive's inverse UNets have theirs in
    its `base/`. Paths with / between, "" or ".." at their beginning as `folder` has it."""
    around = folder.rpartition("/")[0]
    above, _, name = around.rpartition("/")
    return [around, *([_join(above, "base")] if name == INVERSE else [])]


def choose(names: Iterable[str], inside: str, layout: Layout, *, prompt: bool = True) -> Files | None:
    """What of a repository's files makes the model that `inside` names: a folder, a weights file, or "" for the whole.

    A folder that is neither a diffusers folder nor holds one of the layout's stands for the one weights file in it.
    prompt: whether a UNet comes with what its empty prompt is computed with. Returns: None where there is no such model.
    """
    names = set(names)
    if is_weights(inside):
        return Files(inside, [inside]) if inside in names else None
    places = [inside, *(_join(inside, folder) for folder in layout.folders)]
    place = next((place for place in places if _join(place, CONFIG) in names), None)
    if place is None:
        alone = [name for name in names if name.rpartition("/")[0] == inside and is_weights(name)]
        return Files(alone[0], alone) if len(alone) == 1 else None
    found = _weights(names, _join(place, STEM))
    if not found:
        return None
    return Files(place, [_join(place, CONFIG), *found, *(_of_pipeline(names, place, prompt) if layout.in_pipeline else ())])


def is_weights(name: str) -> bool:
    """Whether a path names a weights file, by its suffix."""
    return name.lower().endswith(WEIGHT_SUFFIXES)


def _of_pipeline(names: set[str], place: str, prompt: bool) -> list[str]:
    """What a diffusers UNet's own folder does not say: prediction type, and what computes the empty prompt."""
    own = _join(place, PROMPT_FILE)
    if own in names:
        return [own]
    around = pipelines(place)
    settings = _join(around[0], SCHEDULER_FILE)
    found = [settings] if settings in names else []
    pipeline = next((one for one in around if _join(_join(one, TEXT_ENCODER), CONFIG) in names), None)
    if not prompt or pipeline is None:
        return found
    encoder, tokenizer = (_join(pipeline, part) for part in (TEXT_ENCODER, TOKENIZER))
    weights = _weights(names, f"{encoder}/model", f"{encoder}/pytorch_model")
    return [*found, f"{encoder}/{CONFIG}", *weights, *(name for name in names if name.startswith(f"{tokenizer}/"))]


def _weights(names: set[str], *stems: str) -> list[str]:
    """The first form of weights that is there, whole or with all its shards and their index, which have been named in two ways."""
    for half, kind in FORMS:
        for stem in stems:
            whole = f"{stem}{half}.{kind}"
            if whole in names:
                return [whole]
            number = r"-\d+-of-(\d+)"
            named = re.compile(rf"{re.escape(stem)}(?:{re.escape(half)}{number}|{number}{re.escape(half)})\.{kind}")
            shards = [match for match in map(named.fullmatch, names) if match]
            index = f"{stem}.{kind}.index{half}.json"
            if shards and index in names and len(shards) == int(shards[0][1] or shards[0][2]):
                return [*(match[0] for match in shards), index]
    return []


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
