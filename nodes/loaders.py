"""The nodes that load models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import comfy.utils
import folder_paths
from comfy import model_management
from comfy_api.latest import io

from ..common.assets import BUNDLED_MARK, BY_HUB_ID, TINY
from ..common.direction import require_direction
from ..common.weights import layout
from ..common.weights.hub import HOW_TO_NAME, fetch, parse_hub_id
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
# folders in models/: two of the host's, two of ours
VAES, UNETS, CLASSIFIERS, REFINEMENTS = (layout.MODEL_FOLDERS[kind] for kind in ("harmony_vae", "unet", "classifier", "refinement"))
BUNDLED = "diffharmony_bundled"  # the tiny family's folder, where it lies in this repository
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


def _model_path(folder: str, name: str, hub_id: str, wanted: layout.Layout) -> str | Path:
    """Where a chosen file lies, or what is on the Hub, which counts where it is named: downloaded under the node's progress bar.

    Raises: FileNotFoundError; ValueError for what names no model on the Hub; as `fetch`.
    """
    if hub_id.strip():
        parsed = parse_hub_id(hub_id.strip())
        if parsed is None:
            raise ValueError(f"hub_id must be {HOW_TO_NAME}, got {hub_id!r}. Write it so, or leave it empty.")
        bar = comfy.utils.ProgressBar(1)

        def progress(done: int, total: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        return fetch(parsed, wanted, progress=progress)
    if name.endswith(BUNDLED_MARK):
        return folder_paths.get_full_path_or_raise(BUNDLED, name.removesuffix(BUNDLED_MARK))
    return folder_paths.get_full_path_or_raise(folder, name)


def _schema(
    node_id: str, name: str, description: str, parameter: str, folder: str, what: str, outputs: list, kind: str, direction: str | None = None
) -> io.Schema:
    """Of a node that loads one file out of models/<folder>, or a bundled one of its kind and direction."""
    bundled = bundled_files(kind, direction)
    options = folder_paths.get_filename_list(folder) + (bundled or [BY_HUB_ID])
    other = "the tiny one that comes with DiffHarmony" if bundled else "the one that hub_id names"
    choice = io.Combo.Input(parameter, options=options, tooltip=f"{what} file in models/{folder}, or {other}.")
    hub_id = io.String.Input(
        "hub_id", default="", optional=True, advanced=True,
        tooltip="In its place a model on the Hugging Face Hub: owner/name@v1:file.safetensors, with a tag or a commit. It is downloaded once.",
    )  # fmt: skip
    return io.Schema(
        node_id=node_id, display_name=name, category=CATEGORY, description=description, inputs=[choice, hub_id], outputs=outputs
    )


def _checked(node: type[io.ComfyNode], name: str | None, hub_id: str | None) -> bool | str:
    """What the host says of a choice before it runs: what is named on the Hub counts, whatever file was chosen where the workflow comes from.

    A linked choice or id is None, and known only when it runs.
    """
    choice, _ = node.define_schema().inputs
    if name is None or hub_id is None or hub_id.strip() or name in set(choice.options) - {BY_HUB_ID}:
        return True
    return f"{choice.id} must be a file that is there, got {name!r}. Put it where it belongs (see the choice's tooltip), choose another, or give a hub_id."


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
    def validate_inputs(cls, vae_name=None, hub_id=""):
        return _checked(cls, vae_name, hub_id)

    @classmethod
    def execute(cls, vae_name, hub_id="") -> io.NodeOutput:
        from ..harmony_vae import load_harmony_vae

        return io.NodeOutput(HostHarmonyVAE(load_harmony_vae(_model_path(VAES, vae_name, hub_id, layout.VAE))))


def load_host_unet(unet_name: str, direction: str, hub_id: str = ""):
    """The MODEL and its empty prompt as CONDITIONING.

    Raises: ValueError when the file is not a UNet of that direction, or carries no empty prompt.
    """
    from ..diffusion.unet import empty_prompt_of, load_unet

    unet = load_unet(_model_path(UNETS, unet_name, hub_id, layout.UNET))
    name = hub_id.strip() or unet_name
    require_direction(unet, direction, name)
    empty_prompt_of(unet, name)
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
    def validate_inputs(cls, unet_name=None, hub_id=""):
        return _checked(cls, unet_name, hub_id)

    @classmethod
    def execute(cls, unet_name, hub_id="") -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, "harmonize", hub_id))


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
    def validate_inputs(cls, unet_name=None, hub_id=""):
        return _checked(cls, unet_name, hub_id)

    @classmethod
    def execute(cls, unet_name, hub_id="") -> io.NodeOutput:
        return io.NodeOutput(*load_host_unet(unet_name, "invert", hub_id))


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
    def validate_inputs(cls, classifier_name=None, hub_id=""):
        return _checked(cls, classifier_name, hub_id)

    @classmethod
    def execute(cls, classifier_name, hub_id="") -> io.NodeOutput:
        from ..classifier import load_harmony_classifier

        return io.NodeOutput(HostClassifier(load_harmony_classifier(_model_path(CLASSIFIERS, classifier_name, hub_id, layout.CLASSIFIER))))


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
    def validate_inputs(cls, refinement_name=None, hub_id=""):
        return _checked(cls, refinement_name, hub_id)

    @classmethod
    def execute(cls, refinement_name, hub_id="") -> io.NodeOutput:
        from ..refinement import load_refinement

        return io.NodeOutput(HostRefinement(load_refinement(_model_path(REFINEMENTS, refinement_name, hub_id, layout.REFINEMENT))))
