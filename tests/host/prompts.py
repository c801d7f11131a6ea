"""API-format prompts: what the tests and the demo queue, and what the workflows of workflows/ were authored from."""

from __future__ import annotations

from typing import Any

from diffharmony.tests.made.clip import CLIP, MATTE

Prompt = dict[str, dict[str, Any]]


def harmonize(
    composite: str = "composite.png",
    mask: str = "mask.png",
    vae: str = "harmony_vae.safetensors",
    unet: str = "harmonization_unet.safetensors",
    seed: int = 0,
) -> Prompt:
    """Composite and mask -> `conditional` (Harmony VAE Decode) and `plain` (the host's VAE Decode) of the same latents."""
    return {
        "composite": node("LoadImage", image=composite),
        "mask": node("LoadImageMask", image=mask, channel="red"),
        "vae": node("DiffHarmonyLoadHarmonyVAE", vae_name=vae, hub_id=""),
        "unet": node("DiffHarmonyLoadHarmonizationUNet", unet_name=unet, hub_id=""),
        "conditioning": node(
            "DiffHarmonyConditioning", conditioning=["unet", 1], vae=["vae", 0], image=["composite", 0], mask=["mask", 0]
        ),
        "sampler": node(
            "KSampler",
            model=["unet", 0],
            positive=["conditioning", 0],
            negative=["conditioning", 1],
            latent_image=["conditioning", 2],
            seed=seed,
            steps=5,
            cfg=1.0,
            sampler_name="euler_ancestral",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node(
            "DiffHarmonyVAEDecode",
            samples=["sampler", 0],
            vae=["vae", 0],
            image=["composite", 0],
            mask=["mask", 0],
            paste_background=True,
        ),
        "conditional": node("SaveImage", images=["decode", 0], filename_prefix="harmonized"),
        "plain_decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "plain": node("PreviewImage", images=["plain_decode", 0]),
    }


def transferred(**options: Any) -> Prompt:
    """`harmonize` at the model's working size, its light transferred to the composite at full size: `conditional` shows the result."""
    prompt = without(harmonize(**options), "plain", "plain_decode")
    small = {"image": ["working", 0], "mask": ["working", 1]}
    prompt = changed(prompt, conditioning=small, sampler={"steps": 1}, decode={**small, "paste_background": False}, conditional={"images": ["transfer", 0]})
    return added(
        prompt,
        working=node("DiffHarmonyWorkingSize", model=["unet", 0], image=["composite", 0], mask=["mask", 0], size=0),
        transfer=node(
            "DiffHarmonyTransfer", image=["composite", 0], mask=["mask", 0], harmonized=["decode", 0], strength=1.0, paste_background=True,
            model=["unet", 0],
        ),
    )  # fmt: skip


def refined(refinement: str, **options: Any) -> Prompt:
    """`transferred`, with the refinement stage between decode and transfer."""
    small = {"composite": ["working", 0], "mask": ["working", 1]}
    return added(
        changed(transferred(**options), transfer={"harmonized": ["refine", 0]}),
        refinement=node("DiffHarmonyLoadRefinement", refinement_name=refinement, hub_id=""),
        refine=node("DiffHarmonyRefine", refinement=["refinement", 0], images=["decode", 0], paste_background=False, **small),
    )


BUNDLED = " (bundled tiny)"
TINY = {"vae": "harmony_vae.safetensors" + BUNDLED, "unet": "harmonization_unet.safetensors" + BUNDLED}  # options of `harmonize`


def in_one(composite: str = "composite.png", mask: str | None = "mask.png", models: str = "tiny (bundled)", seed: int = 0, **widgets: Any) -> Prompt:
    """Composite and mask -> `conditional`, all by Harmonize Image. mask None: what is painted on the composite."""
    defaults = {
        "strength": 1.0, "detail": "transfer", "working_size": 0, "steps": 0, "variants": 1, "mask_grow": 0, "mask_feather": 0,
        "invert_mask": False, "paste_background": True, "crop_to_foreground": True, "smoothing": 0.0, "decontaminate": False,
    }  # fmt: skip
    return {
        "composite": node("LoadImage", image=composite),
        **({} if mask is None else {"mask": node("LoadImageMask", image=mask, channel="red")}),
        "harmonize": node(
            "DiffHarmonyHarmonizeImage", image=["composite", 0], mask=["composite", 1] if mask is None else ["mask", 0], models=models, seed=seed, **{**defaults, **widgets}
        ),
        "conditional": node("SaveImage", images=["harmonize", 0], filename_prefix="harmonized"),
    }


def composed() -> Prompt:
    """A cut-out placed on a background by Composite Foreground, then harmonized by Harmonize Image: `conditional`."""
    compose = node(
        "DiffHarmonyComposeForeground", background=["background", 0], foreground=["cutout", 0], mask=["cutout", 1], invert_mask=True, x=0.64, y=0.76,
        scale=0.38, feather=0.0, decontaminate=True,
    )  # fmt: skip
    loaded = {"background": node("LoadImage", image="background.jpg"), "cutout": node("LoadImage", image="cutout.png")}
    harmonizing = changed(without(in_one(decontaminate=True), "composite", "mask"), harmonize={"image": ["compose", 0], "mask": ["compose", 1]})
    return {**loaded, "compose": compose, **harmonizing}


def video() -> Prompt:
    """A film and one of its masks, white on black, harmonized frame after frame without flicker: `saved`."""
    harmonizing = changed(
        without(in_one(smoothing=8.0), "composite", "mask", "conditional"), harmonize={"image": ["frames", 0], "mask": ["mask", 0]}
    )
    return {
        "film": node("LoadVideo", file=CLIP),
        "matte": node("LoadVideo", file=MATTE),
        "frames": node("GetVideoComponents", video=["film", 0]),
        "matte_frames": node("GetVideoComponents", video=["matte", 0]),
        "mask": node("ImageToMask", image=["matte_frames", 0], channel="red"),
        **harmonizing,
        "joined": node("CreateVideo", images=["harmonize", 0], fps=["frames", 2], audio=["frames", 1]),
        "saved": node("SaveVideo", video=["joined", 0], filename_prefix="harmonized_video", format="auto", codec="auto"),
    }


def compared() -> Prompt:
    """Composite and harmonized image as a batch, each against the real photograph: `figures` and amplified differences."""
    return added(
        without(in_one(), "conditional"),
        both=node("BatchImagesNode", **{"images.image0": ["composite", 0], "images.image1": ["harmonize", 0]}),
        real=node("LoadImage", image="real.png"),
        differences=node("DiffHarmonyDifference", image=["both", 0], reference=["real", 0], gain=4.0, mode="absolute"),
        shown=node("PreviewImage", images=["differences", 0]),
        measured=node("DiffHarmonyMetrics", image=["both", 0], real=["real", 0], mask=["harmonize", 1], convention="diffharmony", size=256),
        figures=node("PreviewAny", source=["measured", 0]),
    )


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def changed(prompt: Prompt, **inputs: dict[str, Any]) -> Prompt:
    """A copy with some nodes' inputs replaced: changed(prompt, sampler={"seed": 1})."""
    return {name: {**entry, "inputs": {**entry["inputs"], **inputs.get(name, {})}} for name, entry in prompt.items()}


def added(prompt: Prompt, **nodes: dict[str, Any]) -> Prompt:
    """A copy with more nodes: added(prompt, latent=node("SaveLatent", ...))."""
    return {**prompt, **nodes}


def without(prompt: Prompt, *names: str) -> Prompt:
    """A copy with fewer nodes: without(prompt, "plain", "plain_decode")."""
    return {name: entry for name, entry in prompt.items() if name not in names}
