"""Select Most Unharmonious: which of the candidates of one real image to train on."""

from __future__ import annotations

import itertools
import logging

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from . import host_images
from .loaders import CATEGORY

logger = logging.getLogger("diffharmony")

LARGEST_DISTANCE = 255.0**2


def select_candidates(
    candidates: torch.Tensor, scores: list[float], real: torch.Tensor, mask: torch.Tensor, count: int, **limits: float
) -> tuple[list[int], str]:
    """The indices of the candidates to keep, up to `count` and best first, and which were rejected and why.

    candidates: IMAGE [K,H,W,3 or 4], with K scores. real: IMAGE of batch 1 and that size. mask: MASK of batch 1, of any size.
    limits: as `inverse.choose_candidates` has them.
    Raises: ValueError for shapes that do not fit.
    """
    from ..inverse import choose_candidates
    from ..inverse.distance import distances_from_real

    candidates, real = (host_images.to_library(image) for image in (candidates, real))
    mask = host_images.mask_for(mask, real)
    distances = distances_from_real(candidates, real, mask).tolist()
    choice = choose_candidates(scores, distances, count=count, **limits)
    figures = [f"distance {distance:.1f}, score {score:.3f}" for distance, score in zip(distances, scores)]
    rejected = "\n".join(f"{index}: {why} ({figures[index]})" for index, why in sorted(choice.rejected.items()))
    return list(choice.chosen), rejected


def select_of_each(
    candidates: list[torch.Tensor], scores: list[float], reals: list[torch.Tensor], masks: list[torch.Tensor], count: int, **limits: float
) -> tuple[list, list[int], list[float], list[str]]:
    """`select_candidates` for every photograph of a list: the images kept of each, all their indices, their scores, and what was rejected.

    What belongs to a photograph whose candidates were all rejected does not run.
    Raises: ValueError as `select_candidates` does, for scores that do not fit, and when no photograph has a candidate left.
    """
    total = sum(batch.shape[0] for batch in candidates)
    if len(scores) != total:
        raise ValueError(f"scores must be as many as candidates, {total}, got {len(scores)}. Connect their scores, from Harmony Score.")
    selected, indices, kept, reasons = [], [], [], []
    remaining = iter(scores)
    for number, batch in enumerate(candidates):
        own = list(itertools.islice(remaining, batch.shape[0]))
        # as the host does with lists, the last one serves what is left
        real, mask = (values[min(number, len(values) - 1)] for values in (reals, masks))
        chosen, rejected = select_candidates(batch, own, real, mask, count, **limits)
        if not chosen:
            logger.warning("All candidates of photograph %d of %d were rejected:\n%s", number + 1, len(candidates), rejected)
        selected.append(batch[chosen, ..., :3] if chosen else ExecutionBlocker(None))
        indices += chosen
        kept += [own[index] for index in chosen]
        reasons.append(rejected)
    if not indices:
        raise ValueError("at least one candidate must be within the limits, got none:\n" + "\n".join(reasons) + "\nWiden the limits.")
    return selected, indices, kept, reasons


class SelectMostUnharmonious(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonySelectMostUnharmonious",
            display_name="Select Most Unharmonious",
            category=CATEGORY,
            description="Keeps the candidates that the classifier takes for composites most surely, within limits of what changed.",
            search_aliases=["choose", "best of batch", "harmony classifier"],
            # the host would else run the node once for each score
            is_input_list=True,
            inputs=[
                io.Image.Input("candidates", tooltip="The candidates, from Inverse Candidates."),
                io.Float.Input("scores", force_input=True, tooltip="Their scores, from Harmony Score."),
                io.Image.Input("real", tooltip="The real photograph that they were made of."),
                io.Mask.Input("mask", tooltip="White = the foreground. Stretched to the photograph where its size differs."),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="How many to keep, best first."),
                io.Float.Input(
                    "min_distance",
                    default=0.0,
                    min=0.0,
                    max=LARGEST_DISTANCE,
                    step=1.0,
                    tooltip="Reject what changed less: mean squared difference from the photograph inside the mask, of values 0 to 255.",
                ),
                io.Float.Input(
                    "max_distance",
                    default=LARGEST_DISTANCE,
                    min=0.0,
                    max=LARGEST_DISTANCE,
                    step=1.0,
                    tooltip="Reject what changed more, as broken. 65025 rejects nothing.",
                ),
                io.Float.Input(
                    "max_score",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Reject what the classifier is surer of than this, as broken. 1 rejects nothing.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="selected", is_output_list=True, tooltip="The candidates that are kept, best first."),
                io.Int.Output(display_name="index", is_output_list=True, tooltip="Their numbers among the candidates, from 0."),
                io.Float.Output(display_name="score", is_output_list=True, tooltip="Their unharmonious probabilities."),
                io.String.Output(display_name="rejected", is_output_list=True, tooltip="Which were rejected and why, one a line."),
            ],
        )

    @classmethod
    def execute(
        cls, candidates, scores, real, mask, count=(1,), min_distance=(0.0,), max_distance=(LARGEST_DISTANCE,), max_score=(1.0,)
    ) -> io.NodeOutput:
        limits = {"min_distance": min_distance[0], "max_distance": max_distance[0], "max_score": max_score[0]}
        return io.NodeOutput(*select_of_each(candidates, scores, real, mask, count[0], **limits))
