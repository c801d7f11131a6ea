"""The nodes that load models."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from .host_models import HostClassifier, HostRefinement, register_folder
from .host_unet import host_model
from .host_vae import HostHarmonyVAE

CATEGORY = "DiffHarmony"
DIRECTION = "diffharmony_direction"  # key of the empty prompt's CONDITIONING, and name of the MODEL's attribute
CLASSIFIERS, REFINEMENTS = "harmony_classifiers", "harmony_refinement"  # folders in models/
Classifier, Refinement = io.Custom("DIFFHARMONY_CLASSIFIER"), io.Custom("DIFFHARMONY_REFINEMENT")
for folder in (CLASSIFIERS, REFINEMENTS):
    register_folder(folder)


def load_host_vae(vae_name: str) -> HostHarmonyVAE:
    from ..harmony_vae import load_harmony_vae

    return HostHarmonyVAE(load_harmony_vae(folder_paths.get_full_path_or_raise("vae", vae_name)))


def load_host_unet(unet_name: str, direction: str):
    """The MODEL and its empty prompt as CONDITIONING.

    Raises: ValueError when the file is not a UNet of that direction.
    """
    from ..diffusion import load_unet

    unet = load_unet(folder_paths.get_full_path_or_raise("diffusion_models", unet_name))
    if unet.direction != direction:
        raise ValueError(f"{unet_name} must be a UNet of direction '{direction}', got '{unet.direction}'. Choose another file.")
    patcher = host_model(unet, unet.prediction_type)
    # on the model, not its patcher: clones of the patcher share it
    setattr(patcher.model, DIRECTION, unet.direction)
    return patcher, [[unet.empty_prompt_embeds, {DIRECTION: unet.direction}]]


class LoadHarmonyVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadHarmonyVAE",
            display_name="Load Harmony-VAE",
            category=CATEGORY,
            description="Loads a Harmony-VAE. It also works as a plain VAE in ComfyUI's own nodes.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=folder_paths.get_filename_list("vae"),
                    tooltip="A Harmony-VAE file in models/vae.",
                )
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For Harmony Conditioning, Harmony VAE Decode, and every core VAE node.")],
        )

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_vae(vae_name))


class LoadHarmonizationUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadHarmonizationUNet",
            display_name="Load Harmonization UNet",
            category=CATEGORY,
            description="Loads a harmonization UNet and the empty prompt that is kept in its file, so that no text encoder is needed.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A harmonization UNet file in models/diffusion_models.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For KSampler: euler_ancestral, normal, 5 steps, cfg 1."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Harmony Conditioning."),
            ],
        )

    @classmethod
    def execute(cls, unet_name) -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, direction="harmonize"))


class LoadInverseUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadInverseUNet",
            display_name="Load Inverse UNet",
            category=CATEGORY,
            description="Loads an inverse UNet, which makes composites out of a real photograph, and the empty prompt kept in its file.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="An inverse UNet file in models/diffusion_models.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For Inverse Candidates."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="For Inverse Candidates."),
            ],
        )

    @classmethod
    def execute(cls, unet_name) -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, direction="invert"))


def load_host_classifier(classifier_name: str) -> HostClassifier:
    from ..classifier.checkpoint import load_harmony_classifier

    return HostClassifier(load_harmony_classifier(folder_paths.get_full_path_or_raise(CLASSIFIERS, classifier_name)))


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


def load_host_refinement(refinement_name: str) -> HostRefinement:
    from ..refinement import load_refinement

    return HostRefinement(load_refinement(folder_paths.get_full_path_or_raise(REFINEMENTS, refinement_name)))


class LoadHarmonyRefinement(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiffHarmonyLoadRefinement",
            display_name="Load Harmony Refinement",
            category=CATEGORY,
            description="Loads a refinement model, which mends a harmonized image after decoding.",
            inputs=[
                io.Combo.Input(
                    "refinement_name",
                    options=folder_paths.get_filename_list(REFINEMENTS),
                    tooltip="A refinement file in models/harmony_refinement.",
                )
            ],
            outputs=[Refinement.Output(display_name="refinement", tooltip="For Harmony Refine.")],
        )

    @classmethod
    def execute(cls, refinement_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_refinement(refinement_name))
