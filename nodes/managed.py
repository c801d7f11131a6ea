"""What of the host's own handling of models our small ones need: their folders, and its memory management."""

from __future__ import annotations

from pathlib import Path

import comfy.model_patcher
import folder_paths
import torch
from comfy import model_management


def register_folder(name: str) -> None:
    """Make models/<name> known to the host, besides what its extra_model_paths.yaml names for it."""
    folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, folder_paths.supported_pt_extensions)


def managed(model: torch.nn.Module, device: torch.device) -> comfy.model_patcher.CoreModelPatcher:
    """A model under the host's memory management, which brings it to `device` when it is asked to load it."""
    # the host sets `device` on what it manages, which diffusers' models do not let it
    module = torch.nn.Sequential(model.eval().requires_grad_(False))
    model_management.archive_model_dtypes(module)
    return comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=model_management.vae_offload_device())
