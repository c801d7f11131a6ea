"""diffharmony harmonize: relight the foreground of a composite photograph, or of each in a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from ..common.assets import TINY

if TYPE_CHECKING:
    import torch

ImageArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="COMPOSITE")]
MaskArgument = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MASK]")]
SizeArgument = Annotated[int | Literal["native", "auto"], tyro.conf.arg(aliases=["--working-size"])]


@dataclass(frozen=True)
class HarmonizeConfig:
    """Relight the foreground of a composite photograph to match its background.

    Takes harmonization models; inverse ones are refused. The options are those of the node Harmonize Image.

    Examples:
      diffharmony harmonize composite.png mask.png --out harmonized.png
      diffharmony harmonize composite.png mask.png --out harmonized.png --variants 3 --mask-grow 2 --mask-feather 3
      diffharmony harmonize composites/ masks/ --out harmonized/
      diffharmony harmonize cutout.png --compose background.jpg --position 0.3 0.7 --scale 0.5 --out harmonized.png
      diffharmony harmonize composite.png mask.png --out harmonized.png --vae harmony_vae.safetensors \\
          --unet harmonization_unet.safetensors --size 1024 --device cuda --dtype float16
    """

    composite: ImageArgument
    """Image file: an object pasted on a background; with --compose the object alone, a cut-out. Or a folder of such."""
    out: Path
    """Image file to write (.png, .jpg, .webp, .tif), with the composite's colour profile and resolution; 16-bit input becomes
    8 bits per channel, and transparency is dropped. An existing file is replaced. For a folder of composites: a folder, made where
    missing, for files of their names."""
    mask: MaskArgument = None
    """Mask file of the same size: white is the pasted object; grey edges blend. For a folder of composites: a folder of masks of the same
    names, of any image format. Without it the composite's own transparency: what is opaque is the object. With --compose of a cut-out that
    has both, both count."""
    compose: Path | None = None
    """Image file of a background: the cut-out, or each of a folder, is placed on it without the fringe of its old background, as by the node
    Composite Foreground, and then harmonized. The result has the background's size."""
    position: tuple[float, float] | None = None
    """With --compose: where the object's middle lies, as a share of the background's width and height. Without it the middle: 0.5 0.5."""
    scale: float | None = None
    """With --compose: the object's height as a share of the background's. 0, or without it: the cut-out's own pixels."""
    feather: float | None = None
    """With --compose: soften the object's edge over so many pixels. Without it: 0."""
    vae: Path = TINY / "harmony_vae.safetensors"
    """Harmony-VAE: our single file, a diffusers folder, the authors' archive, or on the Hub owner/name@revision:file (a commit or a tag;
    HF_TOKEN for what is private). The default is a tiny model for trying out."""
    unet: Path = TINY / "harmonization_unet.safetensors"
    """Harmonization UNet: as --vae. The default is a tiny model for trying out."""
    steps: int | None = None
    """Sampling steps. Without it, or 0: what the UNet's file says for --detail transfer, else 5; for several variants 5."""
    seed: int = 0
    """Seed of the noise."""
    variants: int = 1
    """How many results to make, 1 to 8: the most harmonious is written to --out, the next ones beside it with -2, -3, … after its name,
    and all of them on one sheet with -sheet."""
    classifier: Path = TINY / "harmony_classifier.safetensors"
    """Harmony classifier that orders the variants: a file, or one on the Hub. The default is a tiny model for trying out."""
    size: SizeArgument = "auto"
    """Longer side to work at, in pixels (512 or 1024 for full-size models); "native" is the image's own; "auto", or 0, the best that the UNet
    was trained at, or native, but at most 1024, where its file does not say. The result always has the image's own size."""
    mask_grow: int = 0
    """Move the mask's edge outwards by so many pixels; inwards where negative."""
    mask_feather: int = 0
    """Soften the mask's edge over so many pixels to either side."""
    invert_mask: bool = False
    """For masks whose foreground is black."""
    decontaminate: bool = False
    """At soft edges relight the foreground's own colour alone, not what shines through of the background."""
    paste_background: bool = True
    """Lay the relit foreground over the composite, whose background stays exactly as it was."""
    plain: bool = False
    """Decode plainly, without the composite as condition; a plain VAE will do."""
    detail: Literal["transfer", "change", "decoded"] | None = None
    """How the result comes to the image's size: "transfer" gives the composite's own pixels the light that the model found, whatever the
    size; "change" enlarges the model's change; "decoded" the model's picture, as the paper does. Without it: "transfer"."""
    keep_detail: bool = True
    """--no-keep-detail is the former name of --detail decoded."""
    strength: float = 1.0
    """How much of the change, 0 to 2; 0 gives the composite."""
    crop_to_foreground: bool = True
    """Work in a window around a foreground of less than 5 % of the image, so that the model sees it large."""
    smoothing: float = 0.0
    """For a folder of a video's frames, in the order of their names: over how many of them the light is averaged, so that it does not
    flicker; 8 is a good start. 0: each image by itself."""
    tile: int | None = None
    """Decode in tiles of this many pixels, for large images on small machines. Without it: in tiles only where the whole does not fit into
    memory. Sampling still takes the whole image: lower --size for that."""
    refinement: Path | None = None
    """Refinement model to run on the decoded image: our single file, the authors' folder, or on the Hub."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision to compute in."""
    json: bool = False
    """Print one JSON object as the last line."""


class Job(NamedTuple):
    """One composite or cut-out, its mask or None for its own transparency, and where the result goes."""

    composite: Path
    mask: Path | None
    out: Path


class Picture(NamedTuple):
    """What is read of a job: the composite, what of it is harmonized in its place, its mask."""

    composite: torch.Tensor
    shown: torch.Tensor
    mask: torch.Tensor


def run_harmonize(config: HarmonizeConfig) -> dict[str, Any]:
    """Run `diffharmony harmonize`. Returns: what --json prints."""
    import torch
    from tqdm import tqdm

    from ..classifier import load_harmony_classifier
    from ..common.devices import find_device
    from ..common.images import check_image_path
    from ..diffusion.inference import chosen_detail, default_steps, harmonize
    from ..diffusion.unet import load_unet
    from ..diffusion.variants import variant_seeds
    from ..harmony_vae import load_harmony_vae, load_vae
    from ..refinement import load_refinement

    jobs = _jobs(config)
    seeds = variant_seeds(config.seed, config.variants)
    outs = [_outs(job.out, len(seeds)) for job in jobs]
    inputs = [path for job in jobs for path in (job.composite, job.mask)] + [config.compose, config.vae, config.unet, config.refinement]
    for out in (path for paths in outs for path in paths):
        check_image_path(out)
        _refuse_overwriting(out, [path for path in inputs if path is not None])
    device, dtype = find_device(config.device), getattr(torch, config.dtype)
    first = _read(jobs[0], config, empty=bool(config.smoothing))  # what is wrong with it is told before anything is loaded
    _say(f"Loading {config.vae}")
    vae = (load_vae if config.plain else load_harmony_vae)(config.vae, dtype).to(device)
    _say(f"Loading {config.unet}")
    unet = load_unet(config.unet, dtype=dtype).to(device)
    if unet.direction != "harmonize":
        raise ValueError(f"{config.unet} must be a UNet of direction 'harmonize', got {unet.direction!r}. Pass a harmonization UNet.")
    detail = chosen_detail(config.detail, None if config.keep_detail else False)
    if config.smoothing and (detail != "transfer" or len(seeds) > 1):
        raise ValueError(f"smoothing must be 0 for detail {detail} and {len(seeds)} variants, got {config.smoothing:g}. Choose transfer and 1.")
    steps = config.steps or default_steps(unet, detail, len(seeds))
    refinement = classifier = None
    if config.refinement is not None:
        _say(f"Loading {config.refinement}")
        refinement = load_refinement(config.refinement, dtype).to(device)
    if len(seeds) > 1:
        _say(f"Loading {config.classifier}")
        classifier = load_harmony_classifier(config.classifier).to(device)
    if config.smoothing:
        return _report(config, unet, _write_frames(config, jobs, outs, vae, unet, steps, refinement), steps, detail, device)
    written = []
    with tqdm(total=steps * len(jobs), desc="Sampling", file=sys.stderr) as bar:
        for job, paths in zip(jobs, outs):
            picture = first if job is jobs[0] else _read(job, config)
            before = bar.n
            harmonized = harmonize(
                vae,
                unet,
                picture.shown,
                picture.mask,
                steps,
                seeds,
                size=config.size or "auto",
                paste_background=config.paste_background,
                conditional=not config.plain,
                detail=detail,
                strength=config.strength,
                tile=config.tile,
                refinement=refinement,
                progress=lambda done, total: bar.update(before + done * steps // total - bar.n),
                crop="auto" if config.crop_to_foreground else None,
            )
            written.append(_write(job, paths, picture, harmonized, config, seeds, classifier, unet.sizes))
    return _report(config, unet, written, steps, detail, device)


def _report(config: HarmonizeConfig, unet, written: list[dict[str, Any]], steps: int, detail: str, device) -> dict[str, Any]:
    return {
        "command": "harmonize",
        "compose": None if config.compose is None else str(config.compose),
        **(written[0] if config.composite.is_file() else {"out": str(config.out), "images": written}),
        "steps": steps,
        "seed": config.seed,
        "conditional": not config.plain,
        "detail": detail,
        "strength": config.strength,
        "refinement": None if config.refinement is None else str(config.refinement),
        "paste_background": config.paste_background,
        "direction": unet.direction,
        "device": str(device),
        "dtype": config.dtype,
    }


@dataclass
class _Frames(Sequence):
    """The frames' images and masks, read when asked for; the picture that was asked for last."""

    jobs: list[Job]
    config: HarmonizeConfig
    last: Picture | None = None

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.last = _read(self.jobs[index], self.config, empty=True)
        return self.last.shown, self.last.mask


def _write_frames(config: HarmonizeConfig, jobs: list[Job], outs: list[list[Path]], vae, unet, steps: int, refinement) -> list[dict[str, Any]]:
    from tqdm import tqdm

    from ..diffusion.frames import harmonize_frames

    written, frames = [], _Frames(jobs, config)
    with tqdm(total=len(jobs), desc="Finding the light", unit="frame", file=sys.stderr) as bar:
        found = harmonize_frames(
            vae, unet, frames, smoothing=config.smoothing, seed=config.seed, steps=steps, strength=config.strength,
            paste_background=config.paste_background, size=config.size or "auto", conditional=not config.plain, tile=config.tile,
            refinement=refinement, progress=lambda done, total: bar.update(),
        )  # fmt: skip
        for index, harmonized in enumerate(found):
            written.append(_write(jobs[index], outs[index], frames.last, harmonized, config, [config.seed], None, unet.sizes))
    return written


def _jobs(config: HarmonizeConfig) -> list[Job]:
    from ..common.files import make_folder
    from ..common.images import IMAGE_SUFFIXES

    def pictures(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())

    placed = [name for name in ("position", "scale", "feather") if getattr(config, name) is not None]
    if config.compose is None and placed:
        raise ValueError(f"--{placed[0]} must come with --compose, got it alone. Add --compose background.jpg, or leave it out.")
    if config.compose is not None and config.compose.is_dir():
        raise ValueError(f"--compose must be one image file, got the folder {config.compose}. Run the command once for each background.")
    if config.compose is not None and config.invert_mask and config.mask is None:
        raise ValueError("--invert-mask must come with a mask where there is --compose, got none. Leave it out: what is opaque of the cut-out stays.")
    if config.compose is not None and config.smoothing:
        raise ValueError(f"smoothing must be 0 with --compose, got {config.smoothing:g}. Each cut-out is placed by its own object: compose the video first.")
    if not config.composite.is_dir():
        return [Job(config.composite, config.mask, config.out)]
    if config.mask is not None and not config.mask.is_dir():
        raise ValueError(f"mask must be a folder for a folder of composites, got {config.mask}. Pass a folder of masks of the same names.")
    composites = pictures(config.composite)
    masks = None if config.mask is None else {path.stem: path for path in pictures(config.mask)}
    without = [path.name for path in composites if masks is not None and path.stem not in masks]
    if not composites or without:
        found = f"none for {len(without)} of {len(composites)}: {', '.join(without[:3])}" if without else "no image at all"
        raise FileNotFoundError(f"{config.mask or config.composite} must hold a mask for every composite of {config.composite}, got {found}.")
    make_folder(config.out, "--out")
    return [Job(path, masks and masks[path.stem], config.out / path.name) for path in composites]


def _outs(out: Path, count: int) -> list[Path]:
    """Where the variants go, best first, and after several their sheet."""
    more = [*range(2, count + 1), "sheet"] if count > 1 else []
    return [out, *(out.with_stem(f"{out.stem}-{name}") for name in more)]


def _read(job: Job, config: HarmonizeConfig, empty: bool = False) -> Picture:
    from ..common.images import load_alpha, load_image, load_mask
    from ..common.masks import check_behind
    from ..diffusion.mask_edges import edit_mask
    from ..synthetic.compose import compose_foreground, load_cutout
    from ..synthetic.foreground import own_colours

    given = None if job.mask is None else load_mask(job.mask, empty=empty)
    invert = config.invert_mask
    if config.compose is None:
        composite, mask = load_image(job.composite), load_alpha(job.composite) if given is None else given
        if given is None:
            check_behind(composite, mask, str(job.composite), "Add --compose background.jpg, or pass a mask where a plain background is meant.")
    else:
        cutout = load_cutout(job.composite, 1 - given if invert and given is not None else given)
        x, y = config.position or (0.5, 0.5)
        composite, mask = compose_foreground(*cutout, load_image(config.compose), x=x, y=y, scale=config.scale or 0.0, feather=config.feather or 0.0)
        invert = False
    mask = edit_mask(mask, invert=invert, grow=config.mask_grow, feather=config.mask_feather)
    return Picture(composite, own_colours(composite, mask) if config.decontaminate else composite, mask)


def _write(job: Job, paths: list[Path], picture: Picture, harmonized, config: HarmonizeConfig, seeds: list[int], classifier, sizes) -> dict[str, Any]:
    """Write a job's results, and say what they are."""
    import torch

    from ..classifier import unharmonious_probability
    from ..common.images import image_info, save_image
    from ..common.sheets import labelled_sheet
    from ..diffusion.inference import working_size
    from ..diffusion.variants import most_harmonious_first, variant_label
    from ..synthetic.foreground import mixed_again

    composite, shown, mask = picture
    harmonized = harmonized if shown is composite else mixed_again(composite, shown, harmonized).clamp(-1, 1)
    scores = [None] * len(seeds) if classifier is None else unharmonious_probability(classifier, harmonized, mask, batch_size=1).tolist()
    order = [0] if classifier is None else most_harmonious_first(scores)
    info = image_info(config.compose or job.composite)
    for number, path in zip(order, paths):
        save_image(harmonized[number], path, info)
    if len(order) > 1:
        labels = ["composite", *(variant_label(place, seeds[number], scores[number]) for place, number in enumerate(order, 1))]
        save_image(labelled_sheet(torch.cat([composite, harmonized[order]]), labels), paths[-1])
    _say(f"Wrote {', '.join(map(str, paths))}")
    height, width = composite.shape[-2:]
    return {
        "out": str(job.out),
        "width": width,
        "height": height,
        "working_size": list(working_size(height, width, config.size or "auto", sizes))[::-1],
        "foreground": round((mask >= 0.5).float().mean().item(), 6),
        "variants": [{"out": str(path), "seed": seeds[number], "unharmonious": scores[number]} for number, path in zip(order, paths)],
    }


def _refuse_overwriting(out: Path, inputs: list[Path]) -> None:
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"--out must be another file than the inputs, got {out}. Choose another name.")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
