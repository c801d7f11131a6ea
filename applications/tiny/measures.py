"""What the tiny family is measured by: decode gains at three sizes, and harmonization end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from ...common.images import load_image, load_mask, paste_background, tensor_to_pil
from ...common.masks import binarize_mask
from ...dataset.pairs import Pair
from ...diffusion.inference import harmonize, size_multiple
from ...diffusion.unet import load_unet
from ...evaluation.baselines import colour_transfer
from ...evaluation.metrics import Measurement, measure, summarize
from ...harmony_vae import HarmonyVAE, load_harmony_vae, load_vae

BASE_FILE, HARMONY_FILE, UNET_FILE = "vae.safetensors", "harmony_vae.safetensors", "harmonization_unet.safetensors"
PIXELS_AT_ONCE = 4 * 256 * 256
PLAIN, OWN_PLAIN, CONDITIONAL = "plain", "plain_own_decoder", "conditional"
# keys of the report, in the order of its tables, and what people read
METHODS = {
    "composite": "composite",
    "plain": "harmonized, plain decode (base VAE)",
    "plain_pasted": "harmonized, plain decode (base VAE), background pasted",
    "conditional": "harmonized, conditional decode",
    "conditional_pasted": "harmonized, conditional decode, background pasted",
    "no_unet_pasted": "no UNet: E(composite), conditional decode, background pasted",
    "colour_transfer": "mean/std colour transfer",
}
PICTURED = ("plain_pasted", "conditional_pasted")


@dataclass(frozen=True)
class Models:
    """The tiny family. `base` and `vae` share their encoder, so one latent serves both decoders."""

    base: AutoencoderKL
    vae: HarmonyVAE
    unet: UNet2DConditionModel | None


@dataclass(frozen=True)
class Row:
    """One composite end to end: its index in the test list, its name, a Measurement per method, and 8-bit pictures
    [H, W, 3] uint8 of `composite`, `mask`, `real` and PICTURED."""

    index: int
    name: str
    measurements: dict[str, Measurement]
    pictures: dict[str, np.ndarray]

    @property
    def ratio(self) -> float:
        """fMSE of the harmonized image over that of the composite."""
        return self.ratio_of("conditional_pasted")

    def ratio_of(self, method: str) -> float:
        return self.measurements[method].fmse / self.measurements["composite"].fmse


def load_models(assets: Path, *, with_unet: bool = True) -> Models:
    """Raises: FileNotFoundError, ValueError as the loaders do; ValueError when the two VAEs have different encoders."""
    base, vae = load_vae(assets / BASE_FILE), load_harmony_vae(assets / HARMONY_FILE)
    ours = vae.state_dict()
    for name, tensor in base.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")) and not torch.allclose(ours[name], tensor, rtol=2e-3, atol=1e-4):
            raise ValueError(
                f"{assets / BASE_FILE} must be the VAE that {HARMONY_FILE} was trained from, got another encoder ({name} differs). "
                "Copy the base VAE of that training."
            )
    return Models(base, vae, load_unet(assets / UNET_FILE) if with_unet else None)


@torch.no_grad()
def decode_gains(models: Models, pairs: list[tuple[int, Pair]], label: str) -> dict[str, Any]:
    """Mean PSNR in dB of three decodes of E(real), whole image at its own size.

    Returns: {"count", "plain", "plain_own_decoder", "conditional", "gain", "gain_over_own_decoder", "conditional_fMSE"};
    `plain` is the base VAE's decoder and `gain` conditional - plain. conditional_fMSE, of the same latents, is what a
    perfect UNet would leave end to end. Source: SPEC §3, §8.
    """
    values: dict[str, list[Measurement]] = {PLAIN: [], OWN_PLAIN: [], CONDITIONAL: []}
    for _, batch in _batches(pairs, f"Decoding at {label}"):
        composite, real, mask = batch
        z = models.vae.encode(real).latent_dist.mode()
        decoded = {
            PLAIN: models.base.decode(z).sample,
            OWN_PLAIN: models.vae.decode(z).sample,
            CONDITIONAL: models.vae.decode(z, models.vae.encode_condition(composite, mask)).sample,
        }
        for name, images in decoded.items():
            values[name] += _measure(images, real, mask)
    means = {name: float(np.mean([item.psnr for item in items])) for name, items in values.items()}
    return {
        "count": len(pairs),
        **means,
        "gain": means[CONDITIONAL] - means[PLAIN],
        "gain_over_own_decoder": means[CONDITIONAL] - means[OWN_PLAIN],
        "conditional_fMSE": summarize(values[CONDITIONAL])["fMSE"],
    }


@torch.no_grad()
def end_to_end(models: Models, pairs: list[tuple[int, Pair]], *, steps: int, seed: int) -> list[Row]:
    """Every method of METHODS on every composite at its own size; composite i of the test list is sampled with seed + i.

    Raises: ValueError when the images' sides do not suit the models: a padded image would be measured otherwise.
    Source: SPEC §2, §8; issue 2.
    """
    rows = []
    for chunk, (composite, real, mask) in _batches(pairs, "Harmonizing"):
        multiple = size_multiple(models.vae, models.unet)
        if real.shape[2] % multiple or real.shape[3] % multiple:
            raise ValueError(f"test images must have sides that are multiples of {multiple}, got {list(real.shape[2:])}. Take other sizes.")
        seeds = [seed + index for index, _ in chunk]
        plain, conditional = (
            harmonize(vae, models.unet, composite, mask, steps, seeds, size="native", paste_background=False, conditional=vae is models.vae)
            for vae in (models.base, models.vae)
        )
        no_unet = models.vae.decode(models.vae.encode(composite).latent_dist.mode(), models.vae.encode_condition(composite, mask)).sample
        images = {
            "composite": composite,
            "plain": plain,
            "plain_pasted": paste_background(plain, composite, mask),
            "conditional": conditional,
            "conditional_pasted": paste_background(conditional, composite, mask),
            "no_unet_pasted": paste_background(no_unet, composite, mask),
        }
        measured = {method: _measure(images[method], real, mask) for method in images}
        masks = _mask_pictures(mask)
        composites = tensor_to_pil(composite)
        transferred = [
            Image.fromarray(colour_transfer(np.asarray(image), np.asarray(region) >= 128)) for image, region in zip(composites, masks)
        ]
        reals = tensor_to_pil(real)
        measured["colour_transfer"] = [_figures(*parts) for parts in zip(transferred, reals, masks)]
        pictured = {"composite": composites, "real": reals, "mask": masks, **{name: tensor_to_pil(images[name]) for name in PICTURED}}
        rows += [
            Row(
                index,
                pair.composite.stem,
                {method: measured[method][position] for method in METHODS},
                {name: np.asarray(pictures[position]) for name, pictures in pictured.items()},
            )
            for position, (index, pair) in enumerate(chunk)
        ]
    return rows


def _batches(pairs: list[tuple[int, Pair]], label: str) -> Iterator[tuple[list[tuple[int, Pair]], tuple[torch.Tensor, ...]]]:
    """Runs of pairs of one size, as (the run, (composite, real [B,3,H,W] in [-1,1], mask [B,1,H,W] in {0,1}))."""
    with tqdm(total=len(pairs), desc=label, unit="image") as bar:
        chunk: list[tuple[int, Pair]] = []
        tensors: list[tuple[torch.Tensor, ...]] = []
        for position, (index, pair) in enumerate(pairs):
            chunk.append((index, pair))
            tensors.append((load_image(pair.composite), load_image(pair.real), binarize_mask(load_mask(pair.mask))))
            pixels = tensors[0][0][0, 0].numel()
            if len(chunk) * pixels >= PIXELS_AT_ONCE or position == len(pairs) - 1:
                if len({tensor.shape[2:] for items in tensors for tensor in items}) > 1:
                    raise ValueError(f"test images must have one size, got several near {pair.composite}. Make the test set again.")
                yield chunk, tuple(torch.cat(items) for items in zip(*tensors))
                bar.update(len(chunk))
                chunk, tensors = [], []


def _measure(images: torch.Tensor, real: torch.Tensor, mask: torch.Tensor) -> list[Measurement]:
    return [_figures(*parts) for parts in zip(tensor_to_pil(images), tensor_to_pil(real), _mask_pictures(mask))]


def _figures(image: Image.Image, real: Image.Image, mask: Image.Image) -> Measurement:
    """At the picture's own size, background as it comes: whether it was pasted is part of the method."""
    return measure(image, real, mask, "diffharmony", size=None, real_background=False)


def _mask_pictures(mask: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray((item[0] * 255).to(torch.uint8).numpy()) for item in mask]


def thirds(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by the strength of their change, the composite's own fMSE: mild, middle and strong thirds."""
    ordered = sorted(rows, key=lambda row: (row.measurements["composite"].fmse, row.index))
    cuts = [round(len(ordered) * part / 3) for part in range(4)]
    return {name: ordered[low:high] for name, low, high in zip(("mild", "middle", "strong"), cuts, cuts[1:])}
