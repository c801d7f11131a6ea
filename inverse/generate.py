"""Make candidates of many pairs: over any number of processes, gone on with after a kill, none twice (SPEC §4)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import gather_object

from ..common.devices import cpu_threads
from ..common.direction import require_direction
from ..common.files import check_folder, read_json, written_whole
from ..common.processes import on_main, processes
from ..common.run_folder import claim, clear_unfinished, hold, let_go
from ..dataset.layout import CANDIDATES, MASKS, REALS
from ..dataset.pairs import DirectoryIndex, name_some
from ..diffusion.inference import working_size
from ..diffusion.unet import load_unet
from ..harmony_vae import load_harmony_vae
from .candidates import candidate_seed
from .manifest import MANIFEST, as_line, read_manifest, settings_file
from .settings import Recipe
from .sources import Source
from .worker import OutputPaths, make_candidates_of

logger = logging.getLogger("diffharmony")


class Wanted(NamedTuple):
    """Candidates `ks` of a pair."""

    source: Source
    ks: Sequence[int]


class Made(NamedTuple):
    """What came of it, in all processes. made: candidates made now; found: that were there already; bad: path of each image that was
    skipped -> why; listed: candidates that the manifest names."""

    made: int
    found: int
    bad: dict[str, str]
    listed: int


def make_candidates(
    root: Path,
    out: Path,
    wanted: Sequence[Wanted],
    recipe: Recipe,
    *,
    folder: str = CANDIDATES,
    manifest: str = MANIFEST,
    on_bad_image: Literal["stop", "skip"] = "stop",
    settings: dict[str, Any] | None = None,
) -> Made:
    """Write `<out>/<subset>/<folder>/<a>_<m>_<k>` for everything wanted, and the manifest. Every process calls it, and makes its part.

    Candidates that are there are left. Real images and masks are placed beside them, where `out` is not `root`. settings: what the folder
    is claimed with besides the recipe.
    Raises, in every process and before any writes: ValueError when the folder was begun with other settings or holds files of other
    origin, or for models of the other direction; FileNotFoundError for images that do not exist; RuntimeError when another run is
    under way in it. Later, unless bad images are skipped: BadImage. Source: SPEC §4.
    """
    wanted = [item for item in wanted if item.ks]
    working_size(1, 1, recipe.size)
    if on_bad_image == "stop":
        _check_files(wanted)
    check_folder(out, "--out")
    vae, unet = load_pair(recipe)
    out.mkdir(parents=True, exist_ok=True)
    where = OutputPaths(out, folder, recipe.suffix, placed=not out.samefile(root))
    try:
        left = on_main(lambda: _begin(where, wanted, out / manifest, recipe, settings or {}))
        state = processes()
        jobs = [(wanted[index].source, ks) for index, ks in left[state.process_index :: state.num_processes]]
        with cpu_threads(recipe.threads) if recipe.device.type == "cpu" else nullcontext():
            outcome = make_candidates_of(jobs, where, vae, unet, recipe, skip=on_bad_image == "skip")
        outcomes = gather_object([outcome])
        listed = on_main(lambda: _write_manifest(where, wanted, out / manifest))
    finally:
        let_go(out)
    made, unusable = (sum(outcome[place] for outcome in outcomes) for place in (0, 1))
    bad = {path: why for *_, bad in outcomes for path, why in bad.items()}
    if bad and state.is_main_process:
        logger.warning("%d images could not be used, and have no candidates: %s.", len(bad), name_some([Path(path) for path in bad]))
    return Made(made, sum(len(item.ks) for item in wanted) - made - unusable, bad, listed)


def _check_files(wanted: Sequence[Wanted]) -> None:
    folders = DirectoryIndex()
    paths = dict.fromkeys(path for item in wanted for path in (item.source.mask_file, item.source.real_file))
    missing = [path for path in paths if not folders.has(str(path))]
    if missing:
        raise FileNotFoundError(
            f"every mask and real image must exist, got {len(missing)} missing: {name_some(missing, folders)}. Complete the data set, mend its "
            "list, or pass --on-bad-image skip."
        )


def load_pair(recipe: Recipe) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The inverse pair on its device. Raises: as the loaders do; ValueError for models of the other direction."""
    dtype = getattr(torch, recipe.dtype)
    vae = load_harmony_vae(recipe.vae, dtype)
    require_direction(vae, "invert", str(recipe.vae))
    unet = load_unet(recipe.unet, dtype=dtype)
    require_direction(unet, "invert", str(recipe.unet))
    return vae.to(recipe.device), unet.to(recipe.device)


def _begin(
    where: OutputPaths, wanted: Sequence[Wanted], manifest: Path, recipe: Recipe, settings: dict[str, Any]
) -> list[tuple[int, list[int]]]:
    """Take the folder, and find what is left to do: for each pair its place in `wanted`, and the numbers to make."""
    hold(where.out, "--out")
    there, todo = DirectoryIndex(), []
    for index, (source, ks) in enumerate(wanted):
        names = {k: where.name(source, k) for k in ks}
        missing = [k for k, name in names.items() if not there.has(str(where.out / name))]
        if len(missing) < len(names) and not settings_file(manifest).is_file():
            found = next(name for k, name in names.items() if k not in missing)
            raise ValueError(
                f"{where.out} must hold no candidates of another origin, got {found} without {settings_file(manifest).name}. Choose "
                "another --out, or move them away."
            )
        if missing or not all(there.has(str(target)) for target, _ in where.beside(source)):
            todo.append((index, missing))
    claim(where.out, {**recipe.described(), **settings}, settings_file(manifest).name)
    for _ in read_manifest(manifest) if manifest.is_file() else ():
        pass  # one that cannot be read is refused before anything is made
    # of the data set's own folders nothing is touched
    kinds = (where.folder, MASKS, REALS) if where.placed else (where.folder,)
    clear_unfinished(where.out, {item.source.at(kind, "") for item in wanted for kind in kinds})
    clear_unfinished(where.out, [""], f".{manifest.stem}")
    return todo


def _write_manifest(where: OutputPaths, wanted: Sequence[Wanted], manifest: Path) -> int:
    """List the candidates that are there. Returns: how many."""
    there, count = DirectoryIndex(), 0
    with written_whole(manifest) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in _records(where, wanted, manifest):
            if there.has(str(where.out / record["file_name"])):
                file.write(as_line(record))
                count += 1
    return count


def _records(where: OutputPaths, wanted: Sequence[Wanted], manifest: Path) -> Iterator[dict[str, Any]]:
    """Of the pairs wanted, in their order and by k, then of others, what was listed before."""
    made_with = read_json(settings_file(manifest))
    numbers = {item.source.mask_path: set(item.ks) for item in wanted}
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in read_manifest(manifest) if manifest.is_file() else ():
        if record["k"] not in numbers.get(record["mask"], ()):
            others[record["mask"]].append(record)
    for source, ks in wanted:
        records = [
            {
                "file_name": where.name(source, k), "real": source.real, "mask": source.mask_path, "k": k,
                "seed": candidate_seed(made_with["seed"], source.image, source.mask, k),
                **{name: made_with[name] for name in ("steps", "size", "vae", "unet")},
            }
            for k in ks
        ]  # fmt: skip
        yield from sorted(records + others.pop(source.mask_path, []), key=itemgetter("k"))
    for group in others.values():
        yield from group
