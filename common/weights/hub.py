"""A model on the Hugging Face Hub as a local path: what it needs is downloaded, kept in the Hub's own cache, found again without a network.

`owner/name@revision`, and after a colon a folder or a weights file in it: `owner/name@v1:harmony_vae.safetensors`. The revision is a commit
or a tag: a branch may be another model tomorrow. Nothing but such an id, given by the user, makes any code here ask a network.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import NamedTuple

from .layout import CONFIG, Layout, choose, is_weights

logger = logging.getLogger("diffharmony")

ANSWER_WITHIN = 10.0  # seconds
TOKEN = "HF_TOKEN"  # the environment's; one that a login has stored is not sent
NAME = r"[A-Za-z0-9][\w.-]*"
HUB_ID = re.compile(rf"(?P<repository>{NAME}/{NAME})(@(?P<revision>{NAME}))?(:(?P<inside>[^:\\]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
HOW_TO_NAME = "owner/name@revision, and after a colon a folder or file in it"

Progress = Callable[[int, int], None]  # done, of how many


class HubId(NamedTuple):
    """A model of a Hub repository. revision: None where it was not given. inside: a folder or a weights file in it, or empty."""

    repository: str
    revision: str | None
    inside: str

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "") + (f":{self.inside}" if self.inside else "")


def parse_hub_id(text: str) -> HubId | None:
    """None for what cannot be an id, such as a file's path."""
    match = HUB_ID.fullmatch(text)
    if match is None or is_weights(text.partition(":")[0]):
        return None
    return HubId(match["repository"], match["revision"], (match["inside"] or "").strip("/"))


def local_path(path: str | os.PathLike, layout: Layout, *, prompt: bool = True) -> Path:
    """The path itself, or where the model lies that it names on the Hub. A path that exists wins over a model of that name.

    Raises: as `fetch`; FileNotFoundError for what is neither a path nor pinned.
    """
    path = Path(path)
    hub_id = None if os.path.exists(path) else parse_hub_id(path.as_posix())
    if hub_id is None:
        return path
    if hub_id.revision is None:
        raise FileNotFoundError(
            f"{path} must be a file or folder that exists, or a model on the Hub as {HOW_TO_NAME}, got neither: looked in "
            f"{path.absolute().parent}. Check the path, or add @ and a commit or tag."
        )
    return fetch(hub_id, layout, prompt=prompt)


def origin(path: Path) -> str:
    """What a local path is to be called where it is written down: for a path in the Hub's cache the model on the Hub, with its commit."""
    match = re.search(rf"models--({NAME}?)--({NAME})/snapshots/([0-9a-f]{{40}})(?:/(.+))?$", path.as_posix())
    return str(HubId(f"{match[1]}/{match[2]}", match[3], match[4] or "")) if match else str(path)


def fetch(hub_id: HubId, layout: Layout, *, prompt: bool = True, floating: bool = False, progress: Progress | None = None) -> Path:
    """The local file or diffusers folder of a model on the Hub.

    Only what is needed is downloaded: a folder's configuration, one form of its weights and, for a UNet with `prompt`, the scheduler's
    settings and what the empty prompt is computed with. Without a network, or with HF_HUB_OFFLINE=1, the cached copy serves. A
    download that was cut off is gone on with as far as huggingface_hub does.
    floating: take a branch, or what has no revision, too, with a warning that names its commit. progress: called with bytes, may raise to
    stop it; without it huggingface_hub's own bars show on a terminal.
    Raises: ValueError for a revision that is not pinned; FileNotFoundError when the repository holds no such model, or it is neither to
    be reached nor cached.
    """
    from huggingface_hub import constants

    if hub_id.revision and COMMIT.fullmatch(hub_id.revision) and is_weights(hub_id.inside):
        path = _cached(hub_id, layout, prompt)
        if path is not None:
            return path
    cause, reason = None, "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    if reason is None:
        bars = None if progress is None else _bars_that_tell(progress)
        try:
            return _download(hub_id, layout, prompt, floating, bars)
        except _Refusal as refusal:
            raise refusal.error from None
        except Exception as error:  # the Hub's client raises its own kinds, those of its HTTP library and the system's
            if bars is not None and bars.stopped:
                raise
            cause, reason = error, (str(error).strip() or type(error).__name__).splitlines()[0]
    path = _cached(hub_id, layout, prompt)
    if path is None:
        raise FileNotFoundError(
            f"Hub repository {hub_id.repository} must hold {_described(hub_id, layout)}, and be reachable or cached, got none of it in the "
            f"cache {constants.HF_HUB_CACHE} ({reason}). Try again with a network (for a private or gated repository with {TOKEN} set), or "
            "pass a local folder or file."
        ) from cause
    level = logging.INFO if constants.HF_HUB_OFFLINE else logging.WARNING
    logger.log(level, "Taking %s from the cache, without asking the Hub (%s)", hub_id.repository, reason)
    return path


class _Refusal(Exception):
    """What the Hub's answer says against an id: no matter of the network. error: what to raise."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


def _download(hub_id: HubId, layout: Layout, prompt: bool, floating: bool, bars: type | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi(token=os.environ.get(TOKEN) or False)
    info = api.model_info(hub_id.repository, revision=hub_id.revision, files_metadata=True, timeout=ANSWER_WITHIN)
    if not _is_pinned(hub_id, api):
        pinned = str(hub_id._replace(revision=info.sha))
        found = f"branch {hub_id.revision!r}" if hub_id.revision else "none"
        if not floating:
            advice = f"must be a commit or a tag, which stay as they are, got {found}. Write {pinned}."
            raise _Refusal(ValueError(f"revision of {hub_id} {advice}"))
        logger.warning("%s may be another model tomorrow (revision: %s). Write %s to have this one again.", hub_id, found, pinned)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
    files = choose(sizes, hub_id.inside, layout, prompt=prompt)
    if files is None:
        held = ", ".join(sorted(sizes)[:8]) or "nothing"
        advice = f"must hold {_described(hub_id, layout)}, got {held}. Name its folder or file after a colon (owner/name@revision:folder)."
        raise _Refusal(FileNotFoundError(f"Hub repository {hub_id.repository} {advice}"))
    root = Path(snapshot_download(
        hub_id.repository, revision=hub_id.revision, allow_patterns=[escape(name) for name in files.names], token=api.token,
        tqdm_class=bars,
    ))  # fmt: skip
    return root / files.place


def _is_pinned(hub_id: HubId, api) -> bool:
    if hub_id.revision is None or COMMIT.fullmatch(hub_id.revision):
        return hub_id.revision is not None
    return hub_id.revision in {tag.name for tag in api.list_repo_refs(hub_id.repository).tags}


def _cached(hub_id: HubId, layout: Layout, prompt: bool) -> Path | None:
    """The model in the Hub's cache; None where it is not, or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        # no pattern: where the snapshot lies, whatever is in it
        root = Path(snapshot_download(hub_id.repository, revision=hub_id.revision, allow_patterns=[], local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    files = choose(_files_in(root), hub_id.inside, layout, prompt=prompt)
    return None if files is None else root / files.place


def _files_in(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _described(hub_id: HubId, layout: Layout) -> str:
    if is_weights(hub_id.inside) or layout.of_transformers:
        return hub_id.inside or f"{layout.what}'s folder"
    folder = f"{hub_id.inside}/" if hub_id.inside else ""
    inner = (*layout.folders, *(one for part in layout.parts for one in part.folders))
    places = " or ".join(f"{folder}{name}{CONFIG}" for name in ("", *(f"{one}/" for one in inner)))
    return f"{places} with weights"


def _bars_that_tell(progress: Progress) -> type:
    """A class for huggingface_hub's bars that shows nothing and calls `progress`: with bytes, or where its version counts none, files."""
    from tqdm import tqdm

    counts_bytes = []

    class Bar(tqdm):
        stopped = False  # by what `progress` raised

        def __init__(self, *args, **options):
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": False, "file": io.StringIO()})
            if self.unit == "B":
                counts_bytes.append(self)

        def update(self, n=1):
            shown = super().update(n)
            if self.total and self.n and (self.unit == "B" or not counts_bytes):
                try:
                    progress(int(self.n), int(self.total))
                except BaseException:
                    Bar.stopped = True
                    raise
            return shown

    return Bar
