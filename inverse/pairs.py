"""Pairs added to a data set in iHarmony4's layout, never over what it holds (SPEC §7)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from filelock import FileLock
from tqdm.auto import tqdm

from ..common.files import written_whole
from ..common.images import save_image, tensor_to_pil
from ..common.masks import check_foreground, check_image, check_image_and_mask
from ..common.run_folder import clear_unfinished
from ..dataset.layout import COMPOSITES, MASKS, REALS, TRAIN_LIST, check_name, composite_name, write_list
from ..dataset.same_files import place_once
from .manifest import Candidate

MASK = "1"  # a pair is added with one mask


def write_pairs(folder: Path, candidates: Iterable[Candidate], out: Path, list_file: str) -> list[str]:
    """Links to, or copies of, candidates of `folder` in the data set `out`, which must be held, as composites with their masks and real
    images; and their list. What is there is left. Returns: the list's lines.

    Raises: ValueError where another file is in a place.
    """
    candidates = list(candidates)
    files = {target: source for one in candidates for source, target in zip(one, (one.composite, one.real, one.mask))}
    clear_unfinished(out, {os.path.dirname(target) for target in files})
    for target, source in tqdm(files.items(), desc="Placing", unit="file", delay=1, dynamic_ncols=True):
        place_once(folder / source, out / target)
    names = [one.composite for one in candidates]
    write_list(out / list_file, names)
    return names


def save_pair(
    output: str | os.PathLike, dataset: str, subset: str, name: str, composites: torch.Tensor, mask: torch.Tensor, real: torch.Tensor
) -> list[Path]:
    """Add composites of one real image to the data set `<output>/<dataset>` and to its training list.

    composites: [N,3,H,W], real: [1,3,H,W], floating, -1..1. mask: [1,1,H,W] in 0..1, kept soft. They become
    `<subset>/real_images/<name>-<number>.png`, `masks/<name>-<number>_1.png` and `composite_images/<name>-<number>_1_<k>.png`, k from 1,
    with the first number after all that the subset has. Files appear whole, and the list names them last; others that add at the same
    time wait.
    Returns: the composites' paths below `output`.
    Raises: ValueError for a name that leads out of its folder, a link that leads out of `output`, shapes that do not fit, a mask that
    marks nothing, or a list that is no plain file. Source: SPEC §7.
    """
    for what, part in (("dataset", dataset), ("subset", subset), ("name", name)):
        check_name(part, what)
        if part != part.strip(" ."):  # Windows drops both at a name's end
            raise ValueError(f"{what} must not begin or end with a space or dot, got {part!r}. Rename it.")
    _check_images(composites, mask, real)
    root = Path(output) / dataset
    reals, masks, places = (root / subset / kind for kind in (REALS, MASKS, COMPOSITES))
    for folder in (reals, masks, places):
        _make_inside(folder, Path(output))
    with FileLock(root / ".lock"):
        listed = _read_list(root / TRAIN_LIST)
        image = f"{name}-{_next_number(name, (reals, masks, places)):05d}"
        made = [places / composite_name(image, MASK, k) for k in range(1, len(composites) + 1)]
        real_file, mask_file = reals / f"{image}.png", masks / f"{image}_{MASK}.png"
        try:
            for picture, path in zip((real, *composites), (real_file, *made), strict=True):
                save_image(picture, path)
            with written_whole(mask_file) as temporary:
                tensor_to_pil(mask.to(torch.float32).expand(-1, 3, -1, -1) * 2 - 1)[0].convert("L").save(temporary)
            lines = "".join(f"{path.relative_to(root).as_posix()}\n" for path in made)
            with written_whole(root / TRAIN_LIST) as temporary:
                temporary.write_bytes(listed + lines.encode())
        except BaseException:
            for path in (real_file, mask_file, *made):
                path.unlink(missing_ok=True)
            raise
    return [path.relative_to(output) for path in made]


def _check_images(composites: torch.Tensor, mask: torch.Tensor, real: torch.Tensor) -> None:
    check_image(composites, "composite")
    check_image_and_mask(real, mask, "real")
    check_foreground(mask)
    for what, values in (("real", real), ("mask", mask)):
        if values.shape[0] != 1:
            raise ValueError(f"{what} must be one for all composites, got a batch of {values.shape[0]}. Save the pairs one after another.")
    if composites.shape[-2:] != real.shape[-2:]:
        sizes = [f"{image.shape[-1]} x {image.shape[-2]} px" for image in (real, composites)]
        raise ValueError(f"composite must have the real image's size, {sizes[0]}, got {sizes[1]}. Pass the image that it was made of.")


def _make_inside(folder: Path, output: Path) -> None:
    found = folder.resolve()
    if not found.is_relative_to(output.resolve()):
        raise ValueError(f"{folder} must lie in the output folder, got a link to {found}. Remove the link, or choose another name.")
    folder.mkdir(parents=True, exist_ok=True)


def _read_list(path: Path) -> bytes:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} must be a plain file, got a link or a folder. Move it away.")
    listed = path.read_bytes() if path.exists() else b""
    return listed if not listed or listed.endswith(b"\n") else listed + b"\n"


def _next_number(name: str, folders: Iterable[Path]) -> int:
    numbered = re.compile(rf"{re.escape(name)}-(\d+)[_.].*", re.IGNORECASE)  # some disks do not tell cases apart
    found = (numbered.fullmatch(entry) for folder in folders for entry in os.listdir(folder))
    return max((int(match[1]) for match in found if match), default=0) + 1
