"""Inverse Candidates: several composites of one real photograph, sampled by the host and decoded under the photograph."""

from __future__ import annotations

import comfy.utils
import torch
from comfy import model_management
from comfy_api.latest import io, ui

from .conditioning import condition_sampling, sample_latent
from .decode import check_harmony_vae, decode_harmonized
from .loaders import CATEGORY, DIRECTION, facts_of

NODE = "Inverse Candidates"


def inverse_candidates(
    model, conditioning, vae, image: torch.Tensor, mask: torch.Tensor, count: int, seed: int, steps: int
) -> torch.Tensor:
    """IMAGE [count,H,W,3]: composites of one real image, which they equal outside the mask.

    image: IMAGE [1,H,W,3 or 4]. mask: MASK of batch 1, of any size. Candidate k is sampled and decoded by itself from a seed of its
    own, which follows from `seed` and k: it is the same whatever `count` is. The image is encoded once for all of them.
    Raises: ValueError for models of the other direction, several images or masks, and what Harmony Conditioning refuses.
    Source: SPEC §4.
    """
    _check_directions(model, conditioning, vae)
    _check_one(image, mask)
    conditioning, latent = condition_sampling(conditioning, vae, image, mask)
    # no previews on the way: the frontend would go on showing the last one in place of the candidates
    bar = comfy.utils.ProgressBar(count * (steps + 1))
    samples = []
    for own_seed in candidate_seeds(seed, count):
        model_management.throw_exception_if_processing_interrupted()
        samples.append(sample_latent(model, conditioning, latent["samples"], own_seed, steps, callback=lambda *_: bar.update(1)))
    samples = {"samples": torch.cat(samples)}
    return decode_harmonized(samples, vae, image, mask, paste_background=True, node=NODE, progress=bar)


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The host's seed of every candidate.

    Drawn, not counted up from `seed`: ComfyUI's own counting from run to run would make most candidates again, and on the CPU the
    host's sampler takes seed + 1 for the noise that it adds on the way.
    """
    from ..inverse import candidate_seed

    return [candidate_seed(seed, "image", "mask", k) for k in range(count)]


def _check_directions(model, conditioning, vae) -> None:
    check_harmony_vae(vae, NODE)
    of_prompt = next((options[DIRECTION] for _, options in conditioning if DIRECTION in options), None)
    for name, found, loader in (
        ("model", facts_of(model).direction, "Load Inverse UNet"),
        ("empty_prompt", of_prompt, "Load Inverse UNet"),
        ("vae", vae.direction, "Load Harmony-VAE"),
    ):
        if found != "invert":
            found = f"'{found}'" if found else "none, as of another model"
            raise ValueError(f"{NODE}: {name} must be of direction 'invert', got {found}. Load one that is with '{loader}'.")


def _check_one(image: torch.Tensor, mask: torch.Tensor) -> None:
    masks = 1 if mask.ndim == 2 else mask.shape[0]
    for name, found in (("image", image.shape[0]), ("mask", masks)):
        if found != 1:
            raise ValueError(
                f"{name} must be one for all candidates, got a batch of {found}. Take one out of it, or make a list of it with "
                "'Rebatch Images' at batch_size 1: then each has candidates of its own."
            )


class InverseCandidates(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyInverseCandidates",
            display_name=NODE,
            category=CATEGORY,
            description="Makes composites out of a real photograph: its foreground relit in several ways, everything else as it is.",
            search_aliases=["inverse harmonization", "composite", "dataset"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="An inverse UNet, from Load Inverse UNet."),
                io.Conditioning.Input("empty_prompt", tooltip="The empty prompt of Load Inverse UNet."),
                io.Vae.Input("vae", tooltip="A Harmony-VAE that was trained for the inverse UNet, from Load Harmony-VAE."),
                io.Image.Input("image", tooltip="The real photograph. Any size; one image."),
                io.Mask.Input("mask", tooltip="White = the foreground to relight. Stretched to the image where its size differs."),
                io.Int.Input("candidates", default=10, min=1, max=64, tooltip="How many composites to make, as one batch."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Every candidate's own seed follows from this one and its number, not from how many there are.",
                ),
                io.Int.Input("steps", default=5, min=1, max=1000, tooltip="Sampling steps of each. 5 is what the model is meant for."),
            ],
            outputs=[io.Image.Output(display_name="candidates", tooltip="The composites as one batch, of the photograph's size.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, model, empty_prompt, vae, image, mask, candidates=10, seed=0, steps=5) -> io.NodeOutput:
        made = inverse_candidates(model, empty_prompt, vae, image, mask, candidates, seed, steps)
        return io.NodeOutput(made, ui=ui.PreviewImage(made, cls=cls))
