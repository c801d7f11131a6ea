"""Folders of models that the host does not know of itself."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def register_folder(name: str) -> None:
    """Make models/<name> known to the host, besides what its extra_model_paths.yaml names for it."""
    folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, folder_paths.supported_pt_extensions)
