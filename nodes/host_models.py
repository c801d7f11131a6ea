"""Small models under the host's memory management: classifier and refinement stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy import model_management

if TYPE_CHECKING:
    from ..classifier import HarmonyClassifier
    from ..refinement import HarmonyRefinement

BATCH = 8  # images between two looks at whether the user has stopped the run
CLASSIFIER_MEMORY = 60  # values that ResNet-50 holds at once, per pixel of its input: 57 measured
# Values that one image takes at the stage's size, per pixel and per channel of the first level: 17.5 measured for the released widths.
REFINEMENT_MEMORY = 20


def register_folder(name: str, path: Path | None = None) -> None:
    """Make a folder known to the host, models/<name> where no other is given, besides what its extra_model_paths.yaml names for it."""
    folder_paths.add_model_folder_path(name, str(path or Path(folder_paths.models_dir) / name))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, folder_paths.supported_pt_extensions)


def managed(model: torch.nn.Module, device: torch.device) -> comfy.model_patcher.CoreModelPatcher:
    """A model under the host's memory management, which brings it to `device` when it is asked to load it."""
    # the host sets `device` on what it manages, which diffusers' models do not let it
    module = torch.nn.Sequential(model.eval().requires_grad_(False))
    model_management.archive_model_dtypes(module)
    return comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=model_management.vae_offload_device())


class HostClassifier:
    """A harmony classifier under the host's memory management."""

    def __init__(self, classifier: HarmonyClassifier):
        self.device = model_management.vae_device()
        self.classifier = classifier
        self.patcher = managed(classifier, self.device)

    def score(self, images: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """images [B,3,H,W] in -1..1, mask [B,1,H,W] in 0..1 or None -> unharmonious probabilities [B] float32 on the CPU."""
        from ..classifier.inference import unharmonious_probability

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


class HostRefinement:
    """A refinement model under the host's memory management."""

    def __init__(self, model: HarmonyRefinement):
        self.device = model_management.vae_device()
        self.dtype = model_management.vae_dtype(self.device)
        self.model = torch.nn.Module.to(model, self.dtype)
        self.patcher = managed(self.model, self.device)

    def refine(self, harmonized: torch.Tensor, composite: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """harmonized, composite [B,3,H,W] in 0..1, mask [B,1,H,W] in 0..1 -> [B,3,H,W] in 0..1 on the host's intermediate device."""
        from ..refinement import refine

        height, width = self.model.size
        memory = height * width * self.model.config.block_out_channels[0] * REFINEMENT_MEMORY * self.dtype.itemsize
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        bar = comfy.utils.ProgressBar(harmonized.shape[0])

        def progress(done: int, total: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        refined = refine(self.model, harmonized * 2 - 1, composite * 2 - 1, mask, device=self.device, progress=progress)
        return ((refined + 1) / 2).to(model_management.intermediate_device())
