"""From the authors' archive or diffusers folders to our single files, the empty prompt baked in (SPEC §10)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..common.checkpoint import PROMPT_KEY, open_model, read_checkpoint, require_kind
from ..common.direction import check_direction
from ..common.files import check_folder
from ..common.sd_checkpoint import UNET
from ..common.weights import layout
from ..common.weights.hub import local_path, origin
from ..harmony_vae import HarmonyVAE, load_vae, save_harmony_vae
from ..refinement import load_refinement, save_refinement
from .empty_prompt import encode_empty_prompt
from .unet import check_empty_prompt, load_unet, save_unet

logger = logging.getLogger("diffharmony")

FILE_NAMES = {
    "harmonize": ("harmonization_unet.safetensors", "harmony_vae.safetensors"),
    "invert": ("inverse_unet.safetensors", "inverse_harmony_vae.safetensors"),
}
# What a file of each kind can fill of Sources.
PARTS = {
    "unet": ("unet",), "original_unet": ("unet",), "stable_diffusion": ("unet", "vae"),
    "harmony_vae": ("vae",), "autoencoder": ("vae",), "original_vae": ("vae",), "refinement": ("refinement",),
}  # fmt: skip
REFINEMENT_NAME = "refinement.safetensors"
PAPER_SIZES = (1024, 512)  # the better first
WITHOUT_EMBEDDING = (layout.TEXT_ENCODER, layout.TOKENIZER)


@dataclass(frozen=True)
class Sources:
    """Where the parts of one pair of models are; None where there is none.

    direction: what the folders' layout says of it ("harmonize" | "invert"); None where it says nothing.
    """

    unet: Path | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    refinement: Path | None = None
    direction: str | None = None


def find_sources(source: str | os.PathLike, direction: str | None = None) -> Sources:
    """Find the parts in the authors' archive, in a diffusers pipeline folder, or in a model's own folder or file: a UNet, a VAE, a
    refinement model, or a Stable Diffusion 1.x checkpoint in the original layout, with UNet and VAE. Any of them may be on the Hub
    (`common.weights.hub`), of which only what is taken is fetched.

    The archive has `base/` (unet, vae, text_encoder, tokenizer), `condition_vae/`, whose VAE is preferred, `refinement/`, and
    `inverse/` (vae, weights-*, a UNet each), which is taken for direction "invert", and when `source` is that folder itself.
    Raises: FileNotFoundError when nothing of the kind is there, with what was looked for; ValueError for several inverse UNets, or
    another kind of model; as `common.weights.hub.fetch`.
    Source: SPEC §10.
    """
    given = source
    source = local_path(given, layout.INVERSE_MODELS if direction == "invert" else layout.ARCHIVE)
    if os.path.isfile(source) or os.path.isfile(source / layout.CONFIG):
        parts = _parts_in(source)
        # of a UNet on the Hub, what its empty prompt is computed with is fetched too
        return Sources(**dict.fromkeys(parts, local_path(given, layout.UNET) if "unet" in parts else source))
    if not os.path.isdir(source):
        raise FileNotFoundError(f"folder {source.name!r} must exist, looked in {source.parent.resolve()}. Check the path.")
    if source.name == "inverse" and not (source / "unet").is_dir():
        return _find_inverse(source, source.parent)
    if direction == "invert" and any((source / name).is_dir() for name in ("base", "condition_vae", "inverse")):
        return _find_inverse(source / "inverse", source)
    base = source / "base" if (source / "base").is_dir() else source

    def folder(*candidates: Path) -> Path | None:
        return next((path for path in candidates if path.is_dir()), None)

    found = Sources(
        unet=folder(base / "unet"),
        vae=folder(source / "condition_vae", base / "condition_vae", base / "vae"),
        text_encoder=folder(base / "text_encoder"),
        tokenizer=folder(base / "tokenizer"),
        refinement=folder(source / "refinement"),
        direction="harmonize" if base != source or (source / "condition_vae").is_dir() else None,
    )
    if found.unet is None and found.vae is None:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"base/, condition_vae/, unet/ or vae/ must exist, looked in {source.resolve()}, which holds {names}. "
            "Pass the authors' archive, unpacked, or a diffusers folder."
        )
    return found


def _parts_in(path: Path) -> tuple[str, ...]:
    """Which fields of Sources a model's own folder or file can fill."""
    checkpoint, _ = open_model(path, layout.Layout("model"), values=False)
    return PARTS[require_kind(checkpoint, tuple(PARTS), "a UNet, a VAE or a refinement model", "Pass the authors' archive, or one of these.")]


def _find_inverse(inverse: Path, archive: Path) -> Sources:
    """The archive's inverse models, with the text encoder that they share with its `base/`."""
    unets = sorted(path for path in inverse.glob("weights-*") if path.is_dir())
    if not unets or not (inverse / "vae").is_dir():
        found = ", ".join(sorted(entry.name for entry in inverse.iterdir())[:8]) if inverse.is_dir() else ""
        raise FileNotFoundError(
            f"inverse models, vae/ and weights-*/, must exist, looked in {inverse.resolve()}, which holds {found or 'nothing'}. "
            "Pass the authors' archive, unpacked and whole, or the inverse UNet's own folder."
        )
    if len(unets) > 1:
        raise ValueError(
            f"inverse UNet must be one folder, got {', '.join(path.name for path in unets)} in {inverse}. "
            "Pass the one to take as the source, with --vae, --text-encoder and --tokenizer."
        )
    text_encoder, tokenizer = (archive / "base" / name for name in WITHOUT_EMBEDDING)
    return Sources(
        unet=unets[0],
        vae=inverse / "vae",
        text_encoder=text_encoder if text_encoder.is_dir() else None,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        direction="invert",
    )


def find_direction(sources: Sources, wanted: str | None = None) -> str:
    """The direction of the models: what folders and files say of it, else `wanted`, else "harmonize".

    Raises: ValueError for an unknown direction, or when two of these contradict each other.
    """
    if wanted is not None:
        check_direction(wanted)
    claims = {
        "--direction": wanted,
        "the archive's layout": sources.direction,
        str(sources.unet): _direction_in(sources.unet),
        str(sources.vae): _direction_in(sources.vae),
    }
    known = {name: value for name, value in claims.items() if value is not None}
    if len(set(known.values())) > 1:
        found = ", ".join(f"{value!r} by {name}" for name, value in known.items())
        raise ValueError(f"direction must be the same for all parts, got {found}. Leave --direction out, or pass the other models.")
    return next(iter(known.values()), "harmonize")


def _direction_in(path: Path | None) -> str | None:
    """What our own files say, or that the archive's inverse models lie there; a plain VAE serves both directions."""
    if path is not None and path.is_dir():
        if path.absolute().parent.name == layout.INVERSE:
            return "invert"
        path = path / layout.PROMPT_FILE
    if path is None or not path.is_file():
        return None
    checkpoint = read_checkpoint(path, values=False)
    return None if checkpoint.kind == "autoencoder" else checkpoint.direction


def convert_models(
    sources: Sources, out: str | os.PathLike, *, direction: str | None = None, dtype: torch.dtype = torch.float16
) -> dict[str, Path]:
    """Write our single files from the parts found: `harmonization_unet` and `harmony_vae` (or the inverse pair).

    A plain AutoencoderKL becomes a Harmony-VAE whose conditional decode still equals its plain decode: it must be trained.
    out: folder, made where missing. direction: "harmonize" | "invert"; None is what the sources say. dtype: of the files, float16 or float32.
    Returns: {"unet": path, "harmony_vae": path, "refinement": path}, without what there was no source for.
    Raises: FileNotFoundError, ValueError for parts that are missing, damaged, or do not go together, for a direction that the
    sources contradict, and for an `out` that is a file; PermissionError for one that cannot be written to.
    Source: SPEC §10, DESIGN.md "Contracts".
    """
    out = Path(out)
    check_folder(out, "out")
    direction = find_direction(sources, direction)
    unet_name, vae_name = FILE_NAMES[direction]
    training = {"command": "convert", "source": {key: origin(path) for key, path in vars(sources).items() if isinstance(path, Path)}}
    # all are read and checked before anything is written
    unet = _read_unet(sources) if sources.unet is not None else None
    vae = _read_vae(sources.vae) if sources.vae is not None else None
    refinement = load_refinement(sources.refinement) if sources.refinement is not None else None
    out.mkdir(parents=True, exist_ok=True)
    written = {}
    if unet is not None:
        save_unet(
            unet, out / unet_name, direction=direction, prediction_type=unet.prediction_type, dtype=dtype, training=training,
            sizes=unet.sizes or paper_sizes(unet.config.block_out_channels),
        )
        written["unet"] = out / unet_name
    if vae is not None:
        save_harmony_vae(vae, out / vae_name, direction=direction, dtype=dtype, training=training)
        written["harmony_vae"] = out / vae_name
    if refinement is not None:
        save_refinement(refinement, out / REFINEMENT_NAME, dtype=dtype, training=training)
        written["refinement"] = out / REFINEMENT_NAME
    return written


def _read_unet(sources: Sources):
    missing = [name for name in WITHOUT_EMBEDDING if getattr(sources, name) is None]
    carries_its_own = sources.unet.is_file() or (sources.unet / layout.PROMPT_FILE).is_file()
    if missing and (carries_its_own or missing == [*WITHOUT_EMBEDDING]):
        unet = load_unet(sources.unet)
        if getattr(unet, PROMPT_KEY) is not None:
            logger.info("Read the UNet, with the empty prompt that it carries or that lies beside it, from %s", sources.unet)
            return unet
    if missing:
        raise FileNotFoundError(
            f"{' and '.join(missing)} must be given to bake in the empty prompt, got none beside {sources.unet}. "
            "Pass --text-encoder FOLDER and --tokenizer FOLDER of the Stable Diffusion model that the UNet was trained from."
        )
    logger.info("Reading the UNet from %s", sources.unet)
    unet = load_unet(sources.unet, prompt=False)
    logger.info("Encoding the empty prompt with %s", sources.text_encoder)
    embeds = encode_empty_prompt(sources.text_encoder, sources.tokenizer)
    setattr(unet, PROMPT_KEY, check_empty_prompt(embeds, unet))
    return unet


def _read_vae(path: Path) -> HarmonyVAE:
    logger.info("Reading the VAE from %s", path)
    vae = load_vae(path)
    if isinstance(vae, HarmonyVAE):
        return vae
    logger.warning(
        "%s is a plain VAE: the Harmony-VAE written from it decodes as it does until trained (diffharmony train-vae).", path
    )
    return HarmonyVAE.from_autoencoder_kl(vae)


def paper_sizes(widths: Sequence[int]) -> tuple[int, ...]:
    """The working sizes of a UNet whose file names none: the paper's for one of Stable Diffusion's widths, else () for unknown.

    Source: SPEC §2 (trained at 512, run at 512 or 1024, the latter clearly better).
    """
    return PAPER_SIZES if list(widths) == UNET["block_out_channels"] else ()
