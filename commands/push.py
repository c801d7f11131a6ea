"""diffharmony push: a checkpoint onto the Hugging Face Hub, with a model card and a workflow that uses it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .harmonize import _say

SourcesArgument = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]


@dataclass(frozen=True)
class PushConfig:
    """Publish checkpoints on the Hugging Face Hub: the files as they are, a model card, and a ready ComfyUI workflow that names them.

    The card says what the files' metadata, their folder's log and the reports of `diffharmony evaluate` say, and nothing else. One commit
    under a new tag: `owner/name@v1:file` names these files for good. Nothing on the Hub is deleted, and a card that you wrote stays. The
    token is HF_TOKEN of the environment.

    Examples:
      diffharmony push runs/unet/harmonization_unet.safetensors runs/vae/harmony_vae.safetensors --to owner/name --dry-run preview
      HF_TOKEN=… diffharmony push models/ --to owner/name --tag v2 --results out/report --license apache-2.0
    """

    sources: SourcesArgument
    """Our files, of any kind; or folders, for all that lie directly in them. Others are converted first (`diffharmony convert`)."""
    to: str
    """Repository on the Hub, owner/name; made where missing."""
    tag: str = "v1"
    """The revision's name: a new one for each push."""
    results: tuple[Path, ...] = ()
    """Reports of `diffharmony evaluate --out` to show; without it those in the checkpoints' folders."""
    license: str | None = None
    """The weights' licence, as the Hub names it (apache-2.0, openrail, …); without it the card says none."""
    private: bool = False
    """Make a new repository private."""
    dry_run: Path | None = None
    """Write the folder that would be uploaded here instead, a new or empty one, and ask no network."""
    json: bool = False
    """Print one JSON object as the last line."""


def run_push(config: PushConfig) -> dict[str, Any]:
    """Run `diffharmony push`. Returns: what --json prints."""
    from ..applications.publish.card import Published
    from ..applications.publish.push import check_place, check_token, find_checkpoints, upload, write_folder
    from ..common.files import make_folder

    place = Published(config.to, config.tag, config.license)
    check_place(place)
    out = config.dry_run
    if out is None:
        check_token()
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--dry-run must name a new or an empty folder, got {out} with {next(out.iterdir()).name!r}. Name another.")
    checkpoints = find_checkpoints(config.sources)
    report = {"command": "push", "repository": config.to, "tag": config.tag}
    if out is not None:
        make_folder(out, "--dry-run")
        files = write_folder(checkpoints, config.results, place, out)
        _say(f"Wrote {out}: {', '.join(files)}; nothing was uploaded")
        return {**report, "files": files, "folder": str(out)}
    with tempfile.TemporaryDirectory() as folder:
        files = write_folder(checkpoints, config.results, place, Path(folder))
        commit = upload(Path(folder), place, private=config.private)
    _say(f"Pushed {', '.join(files)} to {config.to} as {config.tag} (commit {commit})")
    return {**report, "files": files, "commit": commit}
