"""Harmonize Image: composite and mask in, harmonized image out; the models, the sampling and the way back to full size in one node."""

from __future__ import annotations

from typing import NamedTuple

import comfy.utils
import torch
from comfy import model_management
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import GraphBuilder

from ..common.direction import require_direction
from ..common.images import resize_image, resize_mask
from ..common.masks import THRESHOLD, check_behind, check_foreground, check_size, same_batch, warn_if_dull
from ..diffusion.mask_edges import LARGEST_REACH, edit_mask
from ..diffusion.model_files import Pair, pairs
from ..diffusion.variants import MOST_VARIANTS, most_harmonious_first, variant_label, variant_seeds
from . import host_images
from .compositing.compose import NODE as COMPOSE
from .compositing.compose import compose
from .conditioning import condition_sampling, sample_latent
from .decode import check_harmony_vae, decode_harmonized
from .loaders import (
    CATEGORY, CLASSIFIERS, UNETS, VAES, Classifier, LoadHarmonizationUNet, LoadHarmonyClassifier, LoadHarmonyVAE, bundled_files,
    empty_prompt, facts_of, own_files,
)  # fmt: skip
from .transfer import to_working_size, transfer, with_exact_background

NODE = "Harmonize Image"
NODE_ID = "DiffHarmonyHarmonizeImage"
TINY_PAIR = "tiny (bundled)"
PREVIEW_SIDE = 1024  # of the pictures on the node and of what the classifier sees
SHEET_SIDE = 384
WHITE_IS_FOREGROUND = (
    "White is the foreground: on Load Image, paint it with 'Open in MaskEditor', or load a mask's picture with 'Load Image (as Mask)', channel "
    "red. Where black is the foreground, switch invert_mask on."
)
PASTE_IT = f"Connect the background to image and the cut-out to foreground, with Load Image's mask and invert_mask on; to place it, use '{COMPOSE}'."


class Harmonized(NamedTuple):
    """images: IMAGE [B*V,H,W,3], of each image of a batch the variants, best first. sheet: IMAGE [1,h,w,3]. previews: IMAGE [N,h,w,3], the
    first image's composite, then its variants."""

    images: torch.Tensor
    sheet: torch.Tensor
    previews: torch.Tensor


def harmonize_image(
    model, vae, classifier, image: torch.Tensor, mask: torch.Tensor, *, seed: int, strength: float, detail: str, size: int, steps: int,
    variants: int, paste_background: bool, crop: bool = False, smoothing: float = 0.0, decontaminate: bool = False,
) -> Harmonized:  # fmt: skip
    """Harmonize composites of any size. image: IMAGE [B,H,W,3 or 4]. mask: MASK [B or 1,H,W], soft edges blend.

    crop: work in windows around foregrounds that are small, see `diffusion.crop`. smoothing: over how many frames the light is averaged,
    where the images are a video's, see `diffusion.frames`; 0: each by itself. decontaminate: see `synthetic.foreground.own_colours`.
    classifier: a HostClassifier that says which variant comes first, or None: they stay in their order. steps: 0 is what the model's file
    says. size: as of `to_working_size`. The rest: as of `diffusion.harmonize`. The image is encoded once for all variants.
    Raises: ValueError for models of another kind or direction, and what Harmony Conditioning and Transfer Harmony refuse.
    Source: DESIGN.md, data flow 2 and 5.
    """
    from ..diffusion.inference import default_steps
    from ..synthetic.foreground import mixed_again, own_colours

    facts = facts_of(model)
    if facts.empty_prompt_embeds is None:
        raise ValueError(f"{NODE}: model must come with its empty prompt, got one without. Load it with 'Load Harmonization UNet'.")
    require_direction(facts, "harmonize", "model")
    check_harmony_vae(vae, NODE)
    require_direction(vae, "harmonize", "harmony_vae")
    seeds = variant_seeds(seed, variants)
    steps = steps or default_steps(facts, detail, variants)
    if smoothing and (detail != "transfer" or variants != 1):
        raise ValueError(f"{NODE}: smoothing must be 0 for detail {detail!r} and {variants} variants, got {smoothing:g}. Choose transfer and 1.")
    shown = host_images.to_image(own_colours(*_planes(image, mask)).clamp(0, 1)) if decontaminate else image
    if smoothing:
        results = [_harmonize_frames(model, vae, shown, mask, seed, strength, size, steps, smoothing, paste_background)]
    else:
        results = _harmonize_images(model, vae, shown, mask, seeds, strength, detail, size, steps, paste_background, crop)
    if decontaminate:
        results = [mixed_again(image[..., :3], shown, result).clamp(0, 1) for result in results]
    if smoothing:  # of a video the first frame is shown
        return _in_order(image[:1], mask[:1], [results[0][:1]], seeds, None)._replace(images=results[0])
    return _in_order(image, mask, results, seeds, classifier)


def _harmonize_images(
    model, vae, image: torch.Tensor, mask: torch.Tensor, seeds: list[int], strength: float, detail: str, size: int, steps: int,
    paste_background: bool, crop: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """IMAGE [B,H,W,3] for each seed, of images each by itself; where crop says so, in windows around small foregrounds."""
    from ..diffusion.crop import planned_crops, stitch_crops
    from ..diffusion.inference import working_size

    planes, masks = _planes(image, mask)
    least = max(working_size(*planes.shape[-2:], size or None, facts_of(model).sizes))
    crops = planned_crops(masks, "auto" if crop else None, paste_background, least)
    bar = comfy.utils.ProgressBar(len(seeds) * (steps * max(1, len(crops)) + len(crops or planes)))
    if not crops:
        return [
            transfer(image, mask, decoded, model, strength, paste_background, detail)
            for decoded in _sampled(model, vae, image, mask, size, seeds, steps, bar)
        ]
    windows = []
    for one in crops:
        window, window_mask = host_images.to_image(one.of(planes)), one.of(masks)[:, 0]
        windows.append([
            host_images.to_planes(transfer(window, window_mask, decoded, model, strength, False, detail))
            for decoded in _sampled(model, vae, window, window_mask, size, seeds, steps, bar)
        ])
    return [host_images.to_image(stitch_crops(planes, masks, crops, of_seed)) for of_seed in zip(*windows)]


def _planes(image: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """IMAGE and MASK as [B,3,H,W] and [B,1,H,W], 0..1."""
    planes = host_images.to_planes(image)
    return same_batch({"image": planes, "mask": host_images.mask_for(mask, planes)})


def _sampled(model, vae, image: torch.Tensor, mask: torch.Tensor, size: int, seeds: list[int], steps: int, bar) -> torch.Tensor:
    """What the models make of IMAGE and MASK: [V,B,h,w,3] for V seeds, of the working size. Each image and its condition are encoded once."""
    inner, inner_mask = to_working_size(model, image, mask, size)
    conditioning, latent = condition_sampling(empty_prompt(facts_of(model)), vae, inner, inner_mask)
    samples = []
    for seed in seeds:
        model_management.throw_exception_if_processing_interrupted()
        samples.append(sample_latent(model, conditioning, latent["samples"], seed, steps, callback=lambda *_: bar.update(1)))
    by_image = torch.stack(samples, dim=1)  # [B,V,4,h/f,w/f]
    inner, inner_mask = (values.expand(len(by_image), *values.shape[1:]) for values in (inner, inner_mask))
    decoded = [
        decode_harmonized({"samples": of_image}, vae, *under, paste_background=False, node=NODE, progress=bar)
        for of_image, *under in zip(by_image, inner.split(1), inner_mask.split(1))
    ]
    return torch.stack(decoded, dim=1)


def _harmonize_frames(
    model, vae, image: torch.Tensor, mask: torch.Tensor, seed: int, strength: float, size: int, steps: int, smoothing: float,
    paste_background: bool,
) -> torch.Tensor:  # fmt: skip
    """IMAGE [B,H,W,3] of a video's frames, one after the other, as `diffusion.frames.harmonize_frames` does it."""
    from ..diffusion.frames import smoothed
    from ..diffusion.transfer import apply_transform, found_light

    planes, masks = _planes(image, mask)
    warn_if_dull(masks)
    bar = comfy.utils.ProgressBar(len(planes) * (steps + 1))
    lights = []
    for frame, frame_mask in zip(planes.split(1), masks.split(1)):
        if not (frame_mask >= THRESHOLD).any():
            lights.append(None)
            continue
        (decoded,) = _sampled(model, vae, host_images.to_image(frame), frame_mask[:, 0], size, [seed], steps, bar)
        result = host_images.to_library(decoded).clamp(-1, 1)
        lights.append(found_light(frame * 2 - 1, frame_mask, result, facts_of(model).calibration))
    images = host_images.to_image(planes).clone()
    for index, light in enumerate(lights):
        if light is not None:
            one, one_mask = planes[index : index + 1], masks[index : index + 1]
            light = smoothed(lights, index, smoothing).scaled(strength)
            relit = apply_transform(light, one * 2 - 1, one_mask, paste_background=paste_background).add_(1).div_(2).clamp_(0, 1)
            images[index : index + 1] = with_exact_background(one, relit, one_mask, strength, paste_background)
    return images


def _in_order(image: torch.Tensor, mask: torch.Tensor, results: list[torch.Tensor], seeds: list[int], classifier) -> Harmonized:
    from ..common.sheets import labelled_sheet

    before = _preview(host_images.to_library(image))
    small_mask = resize_mask(host_images.mask_for(mask, before), before.shape[-2:])
    before, small_mask = same_batch({"image": before, "mask": small_mask})
    small = torch.stack([_preview(host_images.to_library(result)) for result in results], dim=1)  # [B,V,3,h,w]
    chosen, shown, labels = [], [], []
    for index, of_image in enumerate(small):
        scores = [None] * len(seeds)
        order = list(range(len(seeds)))
        if classifier is not None:
            scores = classifier.score(of_image, small_mask[index : index + 1].expand(len(seeds), -1, -1, -1)).tolist()
            order = most_harmonious_first(scores)
        chosen += [results[number][index] for number in order]
        shown += [before[index], *of_image[order]]
        labels += ["composite", *(variant_label(place, seeds[number], scores[number]) for place, number in enumerate(order, 1))]
    shown = torch.stack(shown)
    sheet = labelled_sheet(shown, labels, SHEET_SIDE)
    # one result, as most are, is not copied
    images = results[0] if len(seeds) == 1 else torch.stack(chosen)
    return Harmonized(images, host_images.to_shown(sheet), host_images.to_shown(shown[: 1 + len(seeds)]))


def _preview(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    return resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def laid_over(
    image: torch.Tensor, foreground: torch.Tensor, mask: torch.Tensor | None, invert_mask: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE with a layer over it, as it lies: the composite IMAGE [B,H,W,3] and its MASK [B,H,W].

    foreground: IMAGE of image's size, of 4 channels or with a mask (white stays; with invert_mask black), see `compose`.
    Raises: ValueError for another size, and as `compose`.
    """
    check_size(
        "foreground", foreground.movedim(-1, 1), "image", image.movedim(-1, 1), f"Place it with '{COMPOSE}', and connect its image and mask here."
    )
    return compose(image, foreground, mask, invert_mask=invert_mask, x=None, y=None)


def foreground_of(image: torch.Tensor, mask: torch.Tensor | None, **edits) -> torch.Tensor:
    """The MASK [B,H,W] of IMAGE [B,H,W,3 or 4], of its size: the one given, else the image's own fourth channel (opaque = foreground).

    edits: as of `edit_mask`. Raises: ValueError where there is neither, or no foreground, and for a cut-out without a background.
    """
    planes = host_images.to_planes(image)
    if mask is None and image.shape[-1] != 4:
        raise ValueError(f"mask must be connected for an image without transparency, got none. {WHITE_IS_FOREGROUND}")
    soft = host_images.mask_for(image[..., 3] if mask is None else mask, planes, WHITE_IS_FOREGROUND)
    if mask is None:
        check_behind(planes, soft, "image", f"{PASTE_IT} A plain background that is meant: connect a mask.")
    host_images.check_lit(planes, 1 - soft if edits.get("invert") else soft, PASTE_IT)
    soft = edit_mask(soft, **edits)
    check_foreground(soft, WHITE_IS_FOREGROUND)
    return soft[:, 0]


def _own_pairs() -> list[Pair]:
    unets, vaes = (own_files(folder, kind, "harmonize") for folder, kind in ((UNETS, "unet"), (VAES, "harmony_vae")))
    return pairs(unets, vaes)


def _pair(name: str) -> tuple[str, str]:
    """What the loaders call the UNet and the Harmony-VAE of a choice. Raises: FileNotFoundError where it is there no longer."""
    if name == TINY_PAIR:
        return bundled_files("unet", "harmonize")[0], bundled_files("harmony_vae", "harmonize")[0]
    found = next((pair for pair in _own_pairs() if pair.name == name), None)
    if found is None:
        raise FileNotFoundError(
            f"models must be a UNet in models/{UNETS} and a Harmony-VAE in models/{VAES}, got {name!r}, which is not there. Choose others."
        )
    return found.unet.name, found.vae.name


def _classifier_name() -> str | None:
    own = own_files(CLASSIFIERS, "classifier")
    return own[0].name if own else next(iter(bundled_files("classifier")), None)


class HarmonizeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE_ID,
            display_name=NODE,
            category=CATEGORY,
            description="Relights a pasted object so that it matches the photograph that it was pasted into. Image and mask are all it needs.",
            search_aliases=[
                "harmonize", "relight", "color match", "match light", "blend", "composite", "paste", "lighting", "harmonise", "colour match",
                "match color", "compositing",
            ],
            is_output_node=True,
            enable_expand=True,
            inputs=[
                io.Image.Input("image", tooltip="The composite: a photograph with an object pasted into it. Any size; it comes back in its size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White = the foreground, which is relit. Load Image's own mask will do: what was painted in the mask editor, or is "
                    "transparent, is white. An image of four channels needs none: what is opaque is the foreground.",
                ),
                io.Combo.Input(
                    "models",
                    options=[*(pair.name for pair in _own_pairs()), TINY_PAIR],
                    tooltip=f"UNet + Harmony-VAE: those in models/{UNETS} and models/{VAES}, newest first; last the small ones that come with "
                    "DiffHarmony. What is connected to model and harmony_vae counts instead.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Another seed, another result.",
                ),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="How much of the change; 0 = none."),
                io.Combo.Input(
                    "detail",
                    options=["transfer", "change", "decoded"],
                    tooltip="transfer: the image's own pixels in the light that the model found. change: the model's change, enlarged. decoded: "
                    "the model's picture, enlarged, as the paper does.",
                ),
                io.Int.Input(
                    "working_size", default=0, min=0, max=8192, step=8,
                    tooltip="Longer side that the model works at, in pixels; 0 = the best for the model. The result has the image's size.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, advanced=True,
                    tooltip="Sampling steps; 0 = the model's own number, or 5 for several variants.",
                ),
                io.Int.Input(
                    "variants", default=1, min=1, max=MOST_VARIANTS, advanced=True,
                    tooltip="How many results to make; the one that looks most harmonious to the classifier comes first.",
                ),
                io.Int.Input(
                    "mask_grow", default=0, min=-LARGEST_REACH, max=LARGEST_REACH, advanced=True,
                    tooltip="Move the mask's edge outwards by so many pixels; inwards where negative.",
                ),
                io.Int.Input(
                    "mask_feather", default=0, min=0, max=LARGEST_REACH, advanced=True,
                    tooltip="Soften the mask's edge over so many pixels to either side.",
                ),
                io.Boolean.Input("invert_mask", default=False, advanced=True, tooltip="For masks whose foreground is black."),
                io.Boolean.Input(
                    "paste_background", default=True, advanced=True,
                    tooltip="Keep the image's own pixels outside the mask, so that only the foreground changes.",
                ),
                io.Boolean.Input(
                    "crop_to_foreground", default=True, advanced=True, optional=True,
                    tooltip="Work in a window around a foreground of less than 5 % of the image, so that the model sees it large.",
                ),
                io.Float.Input(
                    "smoothing", default=0.0, min=0.0, max=100.0, step=1.0, advanced=True, optional=True,
                    tooltip="For a video's frames: over how many of them the light is averaged, so that it does not flicker; 8 is a good "
                    "start. 0 = each image by itself.",
                ),
                io.Boolean.Input(
                    "decontaminate", default=False, advanced=True, optional=True,
                    tooltip="At soft edges relight the foreground's own colour alone, not what shines through of the background.",
                ),
                io.Model.Input("model", optional=True, tooltip="A UNet of Load Harmonization UNet, in place of that of models."),
                io.Vae.Input("harmony_vae", optional=True, tooltip="A Harmony-VAE of Load Harmony-VAE, in place of that of models."),
                Classifier.Input(
                    "classifier",
                    optional=True,
                    tooltip=f"What orders the variants. Without it: the newest in models/{CLASSIFIERS}, else the small one that comes with "
                    "DiffHarmony.",
                ),
                io.Image.Input(
                    "foreground",
                    optional=True,
                    tooltip="In place of a composite: a cut-out of the image's size, laid over it as it lies, which then is the background. Its "
                    "transparency (4 channels) or mask says what stays. One of another size: place it with Composite Foreground.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The harmonized image; of several variants all, best first."),
                io.Mask.Output(display_name="mask", tooltip="The mask as it was used, of the image's size."),
                io.Image.Output(display_name="sheet", tooltip="Composite and variants on one sheet, each with its probability and seed."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image, models=TINY_PAIR, seed=0, strength=1.0, detail="transfer", working_size=0, steps=0, variants=1, mask_grow=0, mask_feather=0,
        invert_mask=False, paste_background=True, crop_to_foreground=True, smoothing=0.0, decontaminate=False, mask=None, model=None,
        harmony_vae=None, classifier=None, foreground=None,
    ) -> io.NodeOutput:  # fmt: skip
        if foreground is not None:
            image, mask = laid_over(image, foreground, mask, invert_mask)
            invert_mask = False
        mask = foreground_of(image, mask, invert=invert_mask, grow=mask_grow, feather=mask_feather)
        options = {
            "seed": seed, "strength": strength, "detail": detail, "steps": steps, "variants": variants, "paste_background": paste_background,
            "smoothing": smoothing, "decontaminate": decontaminate,
        }  # fmt: skip
        loaders = _missing(models, model, harmony_vae, classifier, variants)
        if loaders:
            # the host's own loaders, as a part of its graph: it keeps and frees the models as it does all others
            graph = GraphBuilder()
            given = {"model": model, "harmony_vae": harmony_vae, "classifier": classifier}
            linked = {name: value for name, value in given.items() if value is not None}
            linked |= {name: graph.node(node_id, **choice).out(0) for name, (node_id, choice) in loaders.items()}
            node = graph.node(
                NODE_ID, image=image, mask=mask, models=models, working_size=working_size, crop_to_foreground=crop_to_foreground, **options,
                **linked,
            )  # fmt: skip
            return io.NodeOutput(*map(node.out, range(3)), expand=graph.finalize())
        made = harmonize_image(model, harmony_vae, classifier, image, mask, size=working_size, crop=crop_to_foreground, **options)
        per_image = variants if mask.shape[0] > 1 else 1
        return io.NodeOutput(
            made.images, mask.repeat_interleave(per_image, dim=0), made.sheet, ui=ui.PreviewImage(made.previews, cls=cls)
        )


def _missing(models: str, model, vae, classifier, variants: int) -> dict[str, tuple[str, dict[str, str]]]:
    """What is not connected and must be loaded: input -> (the loader's node id, its widgets)."""
    found = {}
    if model is None or vae is None:
        unet_name, vae_name = _pair(models)
        if model is None:
            found["model"] = (LoadHarmonizationUNet, {"unet_name": unet_name})
        if vae is None:
            found["harmony_vae"] = (LoadHarmonyVAE, {"vae_name": vae_name})
    if variants > 1 and classifier is None and (name := _classifier_name()):
        found["classifier"] = (LoadHarmonyClassifier, {"classifier_name": name})
    return {name: (loader.GET_SCHEMA().node_id, choice) for name, (loader, choice) in found.items()}
