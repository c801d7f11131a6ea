"""The nodes that load models."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..common.direction import require_direction
from .host_models import HostClassifier, HostRefinement, register_folder
from .host_unet import host_model
from .host_vae import HostHarmonyVAE

CATEGORY = "DiffHarmony"
DIRECTION = "diffharmony_direction"  # key of the empty prompt's CONDITIONING, and name of the MODEL's attribute
SIZES, CALIBRATION = "diffharmony_sizes", "diffharmony_calibration"  # likewise of the MODEL: what the UNet's file says of both
CLASSIFIERS, REFINEMENTS = "harmony_classifiers", "harmony_refinement"  # folders in models/
Classifier, Refinement = io.Custom("DIFFHARMONY_CLASSIFIER"), io.Custom("DIFFHARMONY_REFINEMENT")
for folder in (CLASSIFIERS, REFINEMENTS):
    register_folder(folder)


def _schema(node_id: str, name: str, description: str, parameter: str, folder: str, what: str, outputs: list) -> io.Schema:
    """Of a node that loads one file out of models/<folder>."""
    choice = io.Combo.Input(parameter, options=folder_paths.get_filename_list(folder), tooltip=f"{what} file in models/{folder}.")
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
            "vae_name", "vae", "A Harmony-VAE",
            [io.Vae.Output(display_name="vae", tooltip="For Harmony Conditioning, Harmony VAE Decode, and every core VAE node.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        from ..harmony_vae import load_harmony_vae

        return io.NodeOutput(HostHarmonyVAE(load_harmony_vae(folder_paths.get_full_path_or_raise("vae", vae_name))))


def load_host_unet(unet_name: str, direction: str):
    """The MODEL and its empty prompt as CONDITIONING.

    Raises: ValueError when the file is not a UNet of that direction, or carries no empty prompt.
    """
    from ..diffusion.unet import empty_prompt_of, load_unet

    unet = load_unet(folder_paths.get_full_path_or_raise("diffusion_models", unet_name))
    require_direction(unet, direction, unet_name)
    prompt = empty_prompt_of(unet, unet_name)
    patcher = host_model(unet, unet.prediction_type)
    # on the model, not its patcher: clones of the patcher share it
    for name, value in ((DIRECTION, unet.direction), (SIZES, unet.sizes), (CALIBRATION, unet.calibration)):
        setattr(patcher.model, name, value)
    return patcher, [[prompt, {DIRECTION: unet.direction}]]


class LoadHarmonizationUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadHarmonizationUNet",
            "Load Harmonization UNet",
            "Loads a harmonization UNet and the empty prompt that is kept in its file, so that no text encoder is needed.",
            "unet_name", "diffusion_models", "A harmonization UNet",
            [
                io.Model.Output(display_name="model", tooltip="For KSampler: euler_ancestral, normal, 5 steps, cfg 1."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Harmony Conditioning."),
            ],
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
            "unet_name", "diffusion_models", "An inverse UNet",
            [
                io.Model.Output(display_name="model", tooltip="For Inverse Candidates."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Inverse Candidates."),
            ],
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
        )  # fmt: skip

    @classmethod
    def execute(cls, classifier_name) -> io.NodeOutput:
        from ..classifier import load_harmony_classifier

        return io.NodeOutput(HostClassifier(load_harmony_classifier(folder_paths.get_full_path_or_raise(CLASSIFIERS, classifier_name))))


class LoadHarmonyRefinement(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema(
            "DiffHarmonyLoadRefinement",
            "Load Harmony Refinement",
            "Loads a refinement model, which mends a harmonized image after decoding.",
            "refinement_name", REFINEMENTS, "A refinement",
            [Refinement.Output(display_name="refinement", tooltip="For Harmony Refine.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, refinement_name) -> io.NodeOutput:
        from ..refinement import load_refinement

        return io.NodeOutput(HostRefinement(load_refinement(folder_paths.get_full_path_or_raise(REFINEMENTS, refinement_name))))
