"""Load Harmony Classifier and Harmony Score: how likely each image is a composite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io

from . import images as host_images
from .loaders import CATEGORY
from .managed import managed, register_folder

if TYPE_CHECKING:
    from ..inverse import HarmonyClassifier

CLASSIFIERS = "harmony_classifiers"
Classifier = io.Custom("DIFFHARMONY_CLASSIFIER")
BATCH = 8  # images between two looks at whether the user has stopped the run
CLASSIFIER_MEMORY = 60  # that ResNet-50 holds at once, per pixel of its input: 57 measured

register_folder(CLASSIFIERS)


class HostClassifier:
    """A harmony classifier under the host's memory management."""

    def __init__(self, classifier: HarmonyClassifier):
        self.device = model_management.vae_device()
        self.classifier = classifier
        self.patcher = managed(classifier, self.device)

    def score(self, images: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """images [B,3,H,W] in -1..1, mask [B,1,H,W] in 0..1 or None -> unharmonious probabilities [B] float32 on the CPU."""
        from ..inverse import unharmonious_probability

        memory = BATCH * self.classifier.config["input_size"] ** 2 * CLASSIFIER_MEMORY * 4  # bytes of a float32
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        bar = comfy.utils.ProgressBar(images.shape[0])
        scores = []
        for start in range(0, images.shape[0], BATCH):
            model_management.throw_exception_if_processing_interrupted()
            part = slice(start, start + BATCH)
            scores.append(unharmonious_probability(self.classifier, images[part], None if mask is None else mask[part], device=self.device))
            bar.update(len(scores[-1]))
        return torch.cat(scores)


def load_host_classifier(classifier_name: str) -> HostClassifier:
    from ..inverse import load_harmony_classifier

    return HostClassifier(load_harmony_classifier(folder_paths.get_full_path_or_raise(CLASSIFIERS, classifier_name)))


def score_images(classifier: HostClassifier, images: torch.Tensor, mask: torch.Tensor | None) -> tuple[list[float], torch.Tensor]:
    """IMAGE [B,H,W,3 or 4] -> the unharmonious probability of each, and a sheet IMAGE of all with their numbers and probabilities.

    mask: MASK of batch 1 or B, of any size, for classifiers that look at the foreground.
    Raises: ValueError for shapes that do not fit, or a mask that is missing.
    """
    from ..inverse.sheets import labelled_sheet

    images = host_images.rgb_image(images)
    if mask is not None:
        mask = host_images.mask_for(mask, images)
        images, mask = host_images.same_batch({"images": images, "mask": mask})
    images = images.movedim(-1, 1) * 2 - 1
    scores = classifier.score(images, mask).tolist()
    sheet = labelled_sheet(images, [f"{index}: {score:.3f}" for index, score in enumerate(scores)])
    # as the host loads 8 bits, so that its cutting down to 8 bits gives them back
    return scores, ((sheet.movedim(1, -1) + 1) * 127.5).round() / 255


class LoadHarmonyClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadHarmonyClassifier",
            display_name="Load Harmony Classifier",
            category=CATEGORY,
            description="Loads a harmony classifier, which tells composites from real images.",
            inputs=[
                io.Combo.Input(
                    "classifier_name",
                    options=folder_paths.get_filename_list(CLASSIFIERS),
                    tooltip="A harmony classifier file in models/harmony_classifiers.",
                )
            ],
            outputs=[Classifier.Output(display_name="classifier", tooltip="For Harmony Score.")],
        )

    @classmethod
    def execute(cls, classifier_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_classifier(classifier_name))


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
