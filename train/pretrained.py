"""What a training run begins from: a local folder or file, or a model on the Hub.

Folders: a diffusers VAE or UNet, or a pipeline that holds one. Files: ours, or Stable Diffusion 1.x checkpoints in the original
key layout (.safetensors, .ckpt). On the Hub: `owner/name`, `owner/name@revision`, `owner/name@revision:folder`, …
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..common.checkpoint import PROMPT_KEY, read_checkpoint
from ..common.weights.hub import HOW_TO_NAME, fetch, parse_hub_id
from ..common.weights.layout import UNET, VAE, Layout
from ..diffusion.unet import IN_CHANNELS, NARROW_CHANNELS, attach, load_unet, widen_input
from ..harmony_vae import HarmonyVAE, load_vae

logger = logging.getLogger("diffharmony")

Start = str | os.PathLike


def find_pretrained(start: Start, layout: Layout, field: str, *, prompt: bool = True) -> Path:
    """The local path of what `field` names. A path that exists wins over a model of that name on the Hub, which need not be pinned.

    layout: of the model that is looked for. prompt: whether a UNet's empty prompt is to come with it.
    Raises: FileNotFoundError for what is neither, with where it was looked for.
    """
    path = Path(start).expanduser()
    if path.exists():
        return path
    looked_in = path.absolute().parent
    model = parse_hub_id(Path(start).as_posix())
    if model is None:
        raise FileNotFoundError(
            f"{field} must be a folder or file that exists, or a model on the Hub ({HOW_TO_NAME}), got {str(start)!r}: "
            f"looked in {looked_in}. Check the path."
        )
    logger.info("%s: no %s in %s, so it is taken for a model on the Hub", field, start, looked_in)
    try:
        return fetch(model, layout, prompt=prompt, floating=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{field} {str(start)!r} is no local path (looked in {looked_in}), and was taken for a model on the Hub. {error}"
        ) from error


def load_pretrained_vae(start: Start | None, field: str = "init") -> AutoencoderKL:
    """The VAE that `field` names, plain or Harmony-VAE, float32 on the CPU.

    Raises: ValueError for None, another kind of model or a damaged one; FileNotFoundError as `find_pretrained`.
    """
    if start is None:
        raise ValueError(f"{field} must be a VAE to begin from, got None. Pass --{field} with a folder, a file or a Hub id.")
    return load_vae(find_pretrained(start, VAE, field))


def load_pretrained_harmony_vae(start: Start | None, initialization: str = "zero", seed: int = 0) -> HarmonyVAE:
    """The Harmony-VAE to train: one to train further, or a fresh one over a plain VAE.

    initialization: of the zero convolutions and the mask's, `zero` or (drawn from `seed`) `random`.
    Raises: as `load_pretrained_vae`; ValueError for `random` where a Harmony-VAE is trained further.
    """
    vae = load_pretrained_vae(start)
    if not isinstance(vae, HarmonyVAE):
        return HarmonyVAE.from_autoencoder_kl(vae, initialization, torch.Generator().manual_seed(seed))
    if initialization != "zero":
        raise ValueError(
            f"initialization must be left out for a Harmony-VAE to train further, got {initialization!r} and init {start}. "
            "Begin from a plain VAE, or keep the weights."
        )
    return vae


def load_pretrained_unet(
    start: Start, *, direction: str, prediction_type: str | None = None, empty_prompt: Path | None = None, widen: bool = False
) -> UNet2DConditionModel:
    """The 9-channel UNet to train further, with its empty prompt: from `empty_prompt`, else its own, else computed with the text
    encoder beside it or in its file.

    prediction_type: None takes the model's own. widen: take a 4-channel UNet, and give it 9 input channels, the new ones zero.
    Raises: ValueError for another prediction type, no empty prompt to be had, a 4-channel UNet without `widen` or another with
    it; FileNotFoundError as `find_pretrained`.
    """
    prompt = empty_prompt is None
    path = find_pretrained(start, UNET, "init", prompt=prompt)
    unet = load_unet(path, in_channels=NARROW_CHANNELS if widen else IN_CHANNELS, prompt=prompt)
    if widen:
        widen_input(unet)
        logger.info("init: the 4 input channels became 9, the new ones with zero weights")
    if prediction_type not in (None, unet.prediction_type):
        raise ValueError(f"prediction_type must be init's own {unet.prediction_type!r}, got {prediction_type!r}. Leave it out.")
    embeds = unet.empty_prompt_embeds if prompt else read_checkpoint(empty_prompt).tensors.get(PROMPT_KEY)
    if embeds is None:
        raise ValueError(
            f"the UNet to begin from must come with {PROMPT_KEY}, or with its text_encoder/ and tokenizer/ beside it, got neither in "
            f"{empty_prompt or start}. Convert it first with `diffharmony convert`, or pass --empty-prompt FILE."
        )
    return attach(unet, embeds, direction, unet.prediction_type)


def sampling_unet(start: Start, direction: str) -> UNet2DConditionModel:
    """The trained UNet whose own latents a Harmony-VAE is trained on, frozen.

    Raises: ValueError for one of the other direction, or without an empty prompt; FileNotFoundError as `find_pretrained`.
    """
    unet = load_unet(find_pretrained(start, UNET, "unet"))
    if unet.direction != direction:
        raise ValueError(f"unet must be of direction {direction!r}, got {unet.direction!r} in {start}. Pass the UNet of that direction.")
    if unet.empty_prompt_embeds is None:
        raise ValueError(f"unet must come with {PROMPT_KEY}, got none in {start}. Pass the file that train-unet or convert wrote.")
    return unet
