"""Which files make a model: diffusers folders, pipelines, the authors' archive as it unpacks, single files (SPEC §10)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..files import WEIGHT_SUFFIXES

STEM, TEXT_STEMS = "diffusion_pytorch_model", ("model", "pytorch_model")  # diffusers' and transformers'
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

    what: its name in errors. folders: those that stand for a folder without a config.json of its own, the first that has one; a * is any
    name. in_pipeline: whether the scheduler, text encoder and tokenizer of the pipeline around it belong to it. parts: what a folder that
    is none of these holds in their place, as many as there are. of_transformers: a folder as transformers writes it, whatever is in it.
    stems: how its weights files' names begin.
    """

    what: str
    folders: tuple[str, ...] = ()
    in_pipeline: bool = False
    parts: tuple[Layout, ...] = ()
    of_transformers: bool = False
    stems: tuple[str, ...] = (STEM,)


VAE = Layout("VAE", ("condition_vae", "vae"))
UNET = Layout("UNet", ("unet", "base/unet"), in_pipeline=True)
REFINEMENT = Layout("refinement", ("refinement",))
CLASSIFIER = Layout("classifier")
TEXT = Layout("text encoder or tokenizer", of_transformers=True, stems=TEXT_STEMS)
# All that a pipeline or the authors' archive holds; of the archive its inverse models alone.
ARCHIVE = Layout("models", parts=(UNET._replace(folders=(*UNET.folders, "weights-*")), VAE, REFINEMENT))
INVERSE_MODELS = Layout("inverse models", parts=(
    UNET._replace(folders=(f"{INVERSE}/weights-*", "weights-*", "unet")), VAE._replace(folders=(f"{INVERSE}/vae", "vae")),
))  # fmt: skip
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
    if layout.of_transformers:
        held = _of_transformers(names, inside)
        return Files(inside, held) if held else None
    places = next(filter(None, (_places(names, _join(inside, folder)) for folder in ("", *layout.folders))), [])
    if not places:
        found = (choose(names, inside, part, prompt=prompt) for part in layout.parts)
        parts = [files for files in found if files is not None and not is_weights(files.place)]
        if parts:
            return Files(inside, list(dict.fromkeys(name for files in parts for name in files.names)))
        alone = [name for name in names if name.rpartition("/")[0] == inside and is_weights(name)]
        return Files(alone[0], alone) if len(alone) == 1 else None
    if len(places) > 1:
        # whoever reads the folder refuses it, and for that weights are not needed
        return Files(inside, [_join(place, CONFIG) for place in places])
    (place,) = places
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
    return [*found, *(name for part in (TEXT_ENCODER, TOKENIZER) for name in _of_transformers(names, _join(pipeline, part)))]


def _of_transformers(names: set[str], folder: str) -> list[str]:
    """A folder's small files, and one form of its weights where it has any."""
    small = sorted(name for name in names if name.startswith(f"{folder}/") and not is_weights(name))
    return [*small, *_weights(names, *(f"{folder}/{stem}" for stem in TEXT_STEMS))]


def _places(names: set[str], folder: str) -> list[str]:
    """The folders of that name, in which a * is any, with a config.json."""
    named = re.compile(re.escape(_join(folder, CONFIG)).replace(r"\*", "[^/]+"))
    return sorted(name.removesuffix(CONFIG).rstrip("/") for name in names if named.fullmatch(name))


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
    return "/".join(filter(None, (folder, name)))
