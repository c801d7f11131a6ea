"""Checkpoints, their card and a workflow as a folder, and that folder onto the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...common.checkpoint import Checkpoint, identify, read_checkpoint
from ...common.files import is_safetensors
from ...common.weights.hub import NAME, TOKEN
from .card import MARK, WORKFLOW, Published, card_text, public
from .workflows import workflow_of

logger = logging.getLogger("diffharmony")

CARD = "README.md"
LINK = "https://huggingface.co/{repository}/resolve/{revision}/{{}}"


def check_place(place: Published) -> None:
    """Raises: ValueError for what names no repository, or no tag."""
    if not re.fullmatch(f"{NAME}/{NAME}", place.repository):
        raise ValueError(f"to must be owner/name on the Hub, got {place.repository!r}. Name one of yours.")
    if not re.fullmatch(NAME, place.revision) or place.revision == "main":
        raise ValueError(f"tag must be letters, digits, . and -, and no branch, got {place.revision!r}. Say v1, for one.")


def check_token() -> None:
    """Raises: ValueError without one in the environment."""
    if not os.environ.get(TOKEN):
        raise ValueError(f"{TOKEN} must be set in the environment to push, got none. Make one with write access on the Hub, or try --dry-run.")


def find_checkpoints(sources: Sequence[Path]) -> list[Checkpoint]:
    """Our files among `sources`: files, and folders for all that lie directly in them. Tensors come without values.

    Raises: FileNotFoundError, ValueError for what is missing, damaged, not ours, or two of one name.
    """
    if not sources:
        raise ValueError("checkpoints must be named, got none. Pass a file, or the folder of a finished run.")
    paths = []
    for source in sources:
        found = sorted(path for path in source.iterdir() if is_safetensors(path) and not path.name.startswith(".")) if source.is_dir() else [source]
        if not found:
            raise FileNotFoundError(f"{source} must hold .safetensors files, got none. Pass a checkpoint, or the folder of a finished run.")
        paths += found
    names = [path.name for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"checkpoints must have names of their own, got {twice} twice. Rename one.")
    return [_ours(path) for path in paths]


def _ours(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path, values=False)
    if checkpoint.kind is None or identify(checkpoint.tensors) != checkpoint.kind:
        raise ValueError(
            f"{path} must be a checkpoint of ours, whose metadata says what it is (diffharmony.kind), got "
            f"{checkpoint.kind or 'none'}. Convert it first with `diffharmony convert`."
        )
    if checkpoint.training is not None and public(checkpoint.training) != checkpoint.training:
        logger.warning("%s names folders of this machine in its own metadata (diffharmony.training); the card leaves them out.", path)
    return checkpoint


def write_folder(checkpoints: Sequence[Checkpoint], results: Sequence[Path], place: Published, folder: Path) -> list[str]:
    """Write what is to be uploaded into an empty folder. Returns: the files' names."""
    files = {(one.kind, one.direction or "harmonize"): one.path.name for one in checkpoints}
    steps = next((int(one.metadata["diffharmony.steps"]) for one in checkpoints if "diffharmony.steps" in one.metadata), None)
    link = LINK.format(repository=place.repository, revision=place.revision)
    workflow = workflow_of(files, place.repository, place.revision, link, steps)
    card = card_text(checkpoints, results or _results_beside(checkpoints), place, workflow=workflow is not None)
    (folder / CARD).write_text(card, encoding="utf-8")
    if workflow is not None:
        (folder / WORKFLOW).write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for one in checkpoints:
        shutil.copyfile(one.path, folder / one.path.name)
    return sorted(path.name for path in folder.iterdir())


def _results_beside(checkpoints: Sequence[Checkpoint]) -> list[Path]:
    """Reports of `diffharmony evaluate` in the checkpoints' folders, or one level further down."""
    folders = dict.fromkeys(one.path.parent for one in checkpoints)
    return [path.parent for folder in folders for pattern in ("results.json", "*/results.json") for path in sorted(folder.glob(pattern))]


def upload(folder: Path, place: Published, *, private: bool) -> str:
    """Put the folder's files into the repository, made where missing, as one commit under a new tag. Returns: that commit.

    Nothing is deleted there; a card that somebody else wrote stays. Raises: ValueError for a tag that is taken; OSError for what the Hub
    refuses, or when it is not to be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ[TOKEN])
    try:
        api.whoami()
        api.create_repo(place.repository, private=private, exist_ok=True)
        taken = place.revision in {tag.name for tag in api.list_repo_refs(place.repository).tags}
        if not taken:
            ignored = [CARD] if _others_card(api, place.repository) else []
            commit = api.upload_folder(
                repo_id=place.repository, folder_path=folder, commit_message=f"diffharmony push {place.revision}", ignore_patterns=ignored
            )
            api.create_tag(place.repository, tag=place.revision, revision=commit.oid)
    except Exception as error:  # the Hub's client raises its own kinds, those of its HTTP library and the system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"the Hub must take {place.repository}, got an error ({reason}). Check the name, {TOKEN} and the network.") from error
    if taken:
        raise ValueError(f"tag must be a new one in {place.repository}, got {place.revision!r}, which names other files for good. Choose another --tag.")
    if ignored:
        logger.warning("%s of %s was written by somebody, and stays as it is.", CARD, place.repository)
    return commit.oid


def _others_card(api, repository: str) -> bool:
    # the Hub's own first card of a new repository is no card yet
    if CARD not in api.list_repo_files(repository):
        return False
    return MARK not in Path(api.hf_hub_download(repository, CARD)).read_text(encoding="utf-8")
