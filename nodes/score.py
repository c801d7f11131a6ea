"""Harmony Score: how likely each image is a composite."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..common.masks import same_batch
from . import host_images
from .host_models import HostClassifier
from .loaders import CATEGORY, Classifier


def score_images(classifier: HostClassifier, images: torch.Tensor, mask: torch.Tensor | None) -> tuple[list[float], torch.Tensor]:
    """IMAGE [B,H,W,3 or 4] -> the unharmonious probability of each, and a sheet IMAGE of all with their numbers and probabilities.

    mask: MASK of batch 1 or B, of any size, for classifiers that look at the foreground.
    Raises: ValueError for shapes that do not fit, or a mask that is missing.
    """
    from ..common.sheets import labelled_sheet

    images = host_images.to_library(images)
    if mask is not None:
        images, mask = same_batch({"images": images, "mask": host_images.mask_for(mask, images)})
    scores = classifier.score(images, mask).tolist()
    sheet = labelled_sheet(images, [f"{index}: {score:.3f}" for index, score in enumerate(scores)])
    return scores, host_images.to_shown(sheet)


class HarmonyScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyHarmonyScore",
            display_name="Harmony Score",
            category=CATEGORY,
            description="How likely each image is a composite whose foreground does not match its background, from 0 to 1.",
            search_aliases=["harmony classifier", "unharmonious"],
            inputs=[
                Classifier.Input("classifier", tooltip="A harmony classifier, from Load Harmony Classifier."),
                io.Image.Input("images", tooltip="The images to score."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White = the foreground, for classifiers that look at it; others do without. Stretched where its size differs.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="The unharmonious probability of each image. For Select Most Unharmonious.",
                ),
                io.Image.Output(display_name="sheet", tooltip="All images on one sheet, each with its number and score."),
            ],
        )

    @classmethod
    def execute(cls, classifier, images, mask=None) -> io.NodeOutput:
        return io.NodeOutput(*score_images(classifier, images, mask))
