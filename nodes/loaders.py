"""The nodes that load models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import folder_paths
from comfy_api.latest import io

from ..common.assets import TINY
from ..common.direction import require_direction
from ..diffusion.model_files import ModelFile, files_of_kind
from .host_models import HostClassifier, HostRefinement, register_folder
from .host_unet import host_model
from .host_vae import HostHarmonyVAE

if TYPE_CHECKING:
    import torch

    from ..diffusion.calibration import Calibration

CATEGORY = "DiffHarmony"
DIRECTION = "diffharmony_direction"  # key of the empty prompt's CONDITIONING
FACTS = "diffharmony_facts"  # the MODEL's attribute
VAES, UNETS = "vae", "diffusion_models"  # the host's folders in models/
CLASSIFIERS, REFINEMENTS = "harmony_classifiers", "harmony_refinement"  # ours
BUNDLED = "diffharmony_bundled"  # the tiny family's folder, where it lies in this repository
BUNDLED_MARK = " (bundled tiny)"  # no file's name ends so, so that none of the user's can be meant
Classifier, Refinement = io.Custom("DIFFHARMONY_CLASSIFIER"), io.Custom("DIFFHARMONY_REFINEMENT")
for folder in (CLASSIFIERS, REFINEMENTS):
    register_folder(folder)
register_folder(BUNDLED, TINY)


class UNetFacts(NamedTuple):
    """What a UNet's file says besides its weights, see `diffusion.load_unet`; of a MODEL that another node loaded, nothing."""

    direction: str | None = None
    sizes: tuple[int, ...] = ()
    steps: int | None = None
    calibration: Calibration | None = None
    empty_prompt_embeds: torch.Tensor | None = None


def facts_of(model) -> UNetFacts:
    """Of a MODEL."""
    return getattr(model.model, FACTS, UNetFacts())


def own_files(folder: str, kind: str, direction: str | None = None) -> list[ModelFile]:
    """The user's models of a kind in a folder of models/, newest first."""
    files = ((name, folder_paths.get_full_path(folder, name)) for name in folder_paths.get_filename_list(folder))
    return files_of_kind((ModelFile(name, Path(path)) for name, path in files if path), kind, direction)


def bundled_files(kind: str, direction: str | None = None) -> list[str]:
    """The names that the tiny family's models of a kind are chosen by."""
    files = (ModelFile(name, TINY / name) for name in folder_paths.get_filename_list(BUNDLED))
    return sorted(file.name + BUNDLED_MARK for file in files_of_kind(files, kind, direction))


def _full_path(folder: str, name: str) -> str:
    """Where a chosen file lies. Raises: FileNotFoundError."""
    if name.endswith(BUNDLED_MARK):
        return folder_paths.get_full_path_or_raise(BUNDLED, name.removesuffix(BUNDLED_MARK))
    return folder_paths.get_full_path_or_raise(folder, name)


def _schema(
    node_id: str, name: str, description: str, parameter: str, folder: str, what: str, outputs: list, kind: str, direction: str | None = None
) -> io.Schema:
    """Of a node that loads one file out of models/<folder>, or a bundled one of its kind and direction."""
    options = folder_paths.get_filename_list(folder) + bundled_files(kind, direction)
    choice = io.Combo.Input(parameter, options=options, tooltip=f"{what} file in models/{folder}, or the tiny one that comes with DiffHarmony.")
    return io.Schema(
        node_id=node_id, display_name=name, category=CATEGORY, description=description, inputs=[choice], outputs=outputs
    )


class LoadHarmonyVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadHarmonyVAE",
            "Load Harmony-VAE",
            "Loads a Harmony-VAE. It also works as a plain VAE in ComfyUI's own nodes.",
            "vae_name", VAES, "A Harmony-VAE",
            [io.Vae.Output(display_name="vae", tooltip="For Harmony Conditioning, Harmony VAE Decode, and every core VAE node.")],
            "harmony_vae",
        )  # fmt: skip

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        from ..harmony_vae import load_harmony_vae

        return io.NodeOutput(HostHarmonyVAE(load_harmony_vae(_full_path(VAES, vae_name))))


def load_host_unet(unet_name: str, direction: str):
    """The MODEL and its empty prompt as CONDITIONING.

    Raises: ValueError when the file is not a UNet of that direction, or carries no empty prompt.
    """
    from ..diffusion.unet import empty_prompt_of, load_unet

    unet = load_unet(_full_path(UNETS, unet_name))
    require_direction(unet, direction, unet_name)
    empty_prompt_of(unet, unet_name)
    patcher = host_model(unet, unet.prediction_type)
    facts = UNetFacts(*(getattr(unet, name) for name in UNetFacts._fields))
    setattr(patcher.model, FACTS, facts)  # on the model, not its patcher: clones of the patcher share it
    return patcher, empty_prompt(facts)


def empty_prompt(facts: UNetFacts) -> list:
    """As CONDITIONING."""
    return [[facts.empty_prompt_embeds, {DIRECTION: facts.direction}]]


class LoadHarmonizationUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadHarmonizationUNet",
            "Load Harmonization UNet",
            "Loads a harmonization UNet and the empty prompt that is kept in its file, so that no text encoder is needed.",
            "unet_name", UNETS, "A harmonization UNet",
            [
                io.Model.Output(display_name="model", tooltip="For KSampler: euler_ancestral, normal, 5 steps, cfg 1."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Harmony Conditioning."),
            ],
            "unet", "harmonize",
        )  # fmt: skip

    @classmethod
    def execute(cls, unet_name) -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, direction="harmonize"))


class LoadInverseUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadInverseUNet",
            "Load Inverse UNet",
            "Loads an inverse UNet, which makes composites out of a real photograph, and the empty prompt kept in its file.",
            "unet_name", UNETS, "An inverse UNet",
            [
                io.Model.Output(display_name="model", tooltip="For Inverse Candidates."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Inverse Candidates."),
            ],
            "unet", "invert",
        )  # fmt: skip

    @classmethod
    def execute(cls, unet_name) -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, direction="invert"))


class LoadHarmonyClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadHarmonyClassifier",
            "Load Harmony Classifier",
            "Loads a harmony classifier, which tells composites from real images.",
            "classifier_name", CLASSIFIERS, "A harmony classifier",
            [Classifier.Output(display_name="classifier", tooltip="For Harmony Score.")],
            "classifier",
        )  # fmt: skip

    @classmethod
    def execute(cls, classifier_name) -> io.NodeOutput:
        from ..classifier import load_harmony_classifier

        return io.NodeOutput(HostClassifier(load_harmony_classifier(_full_path(CLASSIFIERS, classifier_name))))


class LoadHarmonyRefinement(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadRefinement",
            "Load Harmony Refinement",
            "Loads a refinement model, which mends a harmonized image after decoding.",
            "refinement_name", REFINEMENTS, "A refinement",
            [Refinement.Output(display_name="refinement", tooltip="For Harmony Refine.")],
            "refinement",
        )  # fmt: skip

    @classmethod
    def execute(cls, refinement_name) -> io.NodeOutput:
        from ..refinement import load_refinement

        return io.NodeOutput(HostRefinement(load_refinement(_full_path(REFINEMENTS, refinement_name))))
