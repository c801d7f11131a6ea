"""DiffHarmonyPipeline: harmonize() as a diffusers pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image

from ..common.direction import check_directions
from ..common.images import pil_to_mask, pil_to_tensor, tensor_to_pil
from ..refinement import HarmonyRefinement
from .crop import CropOption
from .inference import Detail, Size, chosen_detail, default_steps, harmonize
from .sampler import Scheduler, build_scheduler
from .unet import check_channels, load_unet, write_prompt_file

SCHEDULERS = ("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
Images = torch.Tensor | Image.Image | Sequence[Image.Image]


class DiffHarmonyPipeline(DiffusionPipeline):
    """A Harmony-VAE (or plain AutoencoderKL), a 9-channel UNet and a scheduler as one diffusers pipeline.

    vae: HarmonyVAE or AutoencoderKL. unet: from `load_unet`, carrying `.empty_prompt_embeds`. scheduler: None builds the
    Euler-ancestral one for the UNet's prediction type. A saved folder is loaded by DiffHarmonyPipeline.from_pretrained; diffusers'
    own DiffusionPipeline.from_pretrained does not know the class.
    Raises: ValueError for a UNet without 9 input channels, a Harmony-VAE of the other direction, or a scheduler for another
    prediction type.
    Source: SPEC §2, §3; DESIGN.md "Contracts".
    """

    model_cpu_offload_seq = "unet->vae"
    _optional_components = ["scheduler"]

    def __init__(self, vae: AutoencoderKL, unet: UNet2DConditionModel, scheduler: Scheduler | None = None):
        super().__init__()
        check_channels(unet.config.in_channels, unet.config.out_channels)
        if hasattr(vae, "encode_condition"):
            check_directions(vae, unet)
        prediction_type = getattr(unet, "prediction_type", "epsilon")
        if scheduler is None:
            scheduler = build_scheduler(prediction_type)
        elif scheduler.config.prediction_type != prediction_type:
            raise ValueError(
                f"scheduler must be for the UNet's prediction type {prediction_type!r}, got "
                f"{scheduler.config.prediction_type!r}. Build it with build_scheduler(unet.prediction_type)."
            )
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        composite: Images,
        mask: Images,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        *,
        size: Size = None,
        paste_background: bool = True,
        conditional: bool | None = None,
        detail: Detail | None = None,
        strength: float = 1.0,
        keep_detail: bool | None = None,
        tile: int | None = None,
        refinement: HarmonyRefinement | None = None,
        crop: CropOption = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Harmonize composites; options as for `harmonize`.

        composite: [B, 3, H, W] in [-1, 1], or one PIL image, or a list of them of one size. mask: [B or 1, 1, H, W] in
        [0, 1], or PIL likewise; white is foreground. refinement: no part of the pipeline, which neither saves nor loads it; it is
        moved to where the pipeline computes.
        output_type: "pil" gives a list of PIL images, "pt" a tensor [B, 3, H, W] in [-1, 1].
        Returns: `.images` (or a tuple of it with return_dict=False).
        Raises: ValueError, RuntimeError as `harmonize` does.
        """
        if output_type not in ("pil", "pt"):
            raise ValueError(f"output_type must be 'pil' or 'pt', got {output_type!r}. Pass one of these.")
        composite = _as_tensor(composite, pil_to_tensor, "composite")
        mask = _as_tensor(mask, pil_to_mask, "mask")
        if refinement is not None:
            refinement.to(self._execution_device)
        steps = default_steps(self.unet, chosen_detail(detail, keep_detail)) if steps is None else steps
        with self.progress_bar(total=steps) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total  # of all crops
                bar.update(done - bar.n)

            images: Any = harmonize(
                self.vae,
                self.unet,
                composite,
                mask,
                steps,
                seed,
                size=size,
                paste_background=paste_background,
                conditional=conditional,
                detail=detail,
                strength=strength,
                keep_detail=keep_detail,
                tile=tile,
                refinement=refinement,
                scheduler=self.scheduler,
                device=self._execution_device,
                progress=show,
                crop=crop,
            )
        self.maybe_free_model_hooks()
        if output_type == "pil":
            images = tensor_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save as a diffusers pipeline folder; the UNet's embedding, direction and prediction type go into `unet/`."""
        super().save_pretrained(save_directory, **kwargs)
        write_prompt_file(Path(save_directory) / "unet", self.unet)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        torch_dtype: torch.dtype | None = None,
        vae: AutoencoderKL | None = None,
        unet: UNet2DConditionModel | None = None,
        scheduler: Scheduler | None = None,
        **hub_options: Any,
    ) -> DiffHarmonyPipeline:
        """Load a folder written by `save_pretrained`, or a Stable Diffusion inpainting tree; or the same from the hub.

        torch_dtype: of both models; None is float32. vae, unet, scheduler: use these instead of the folder's.
        hub_options: passed to huggingface_hub's snapshot_download (revision, token, cache_dir, local_files_only).
        Raises: FileNotFoundError, ValueError as the loaders do.
        """
        # diffusers' own loader looks classes up in the top package, which here imports nothing (DESIGN.md)
        from ..harmony_vae import load_vae

        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(pretrained_model_name_or_path), **hub_options))
        needed = [name for name, given in (("vae", vae), ("unet", unet)) if given is None]
        if not all((folder / name).is_dir() for name in needed):
            found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"pipeline folder must hold {' and '.join(f'{name}/' for name in needed)}, looked in {folder.resolve()}, which holds "
                f"{found}. Pass a folder of save_pretrained, or build the pipeline from load_harmony_vae and load_unet."
            )
        dtype = torch_dtype or torch.float32
        if unet is None:
            unet = load_unet(folder / "unet", dtype=dtype)
        if vae is None:
            vae = load_vae(folder / "vae", dtype)
            if "unet" in needed:
                # diffusers' folders do not say it of the VAE; those of one pipeline belong together
                vae.direction = unet.direction
        if scheduler is None:
            name = _class_name(folder / "scheduler" / "scheduler_config.json")
            if name in SCHEDULERS:
                scheduler = getattr(diffusers, name).from_pretrained(folder / "scheduler")
        return cls(vae=vae, unet=unet, scheduler=scheduler)


def _class_name(config: Path) -> str | None:
    return json.loads(config.read_text(encoding="utf-8")).get("_class_name") if config.is_file() else None


def _as_tensor(images: Images, convert, name: str) -> torch.Tensor:
    if isinstance(images, torch.Tensor):
        return images
    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise ValueError(f"{name} must be a tensor, a PIL image or a list of PIL images, got {type(images[0]).__name__ if images else 'an empty list'}. Convert it first.")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"{name} images of one batch must have one size, got {sorted(sizes)}. Call once per size.")
    return torch.cat([convert(image) for image in images])
