"""The empty prompt's embedding, computed with the text encoder that a UNet was trained with (SPEC §1)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from ..common.checkpoint import open_model
from ..common.sd_checkpoint import PROMPT_LENGTH, run_text_encoder
from ..common.weights.layout import TEXT, TEXT_ENCODER, TOKENIZER, pipelines

logger = logging.getLogger("diffharmony")


def empty_prompt_beside(folder: Path) -> torch.Tensor | None:
    """What the text encoder beside a UNet's folder makes of "", [1, 77, D] float32: of the pipeline or the archive that it is a part of.

    Returns: None where there is none. Raises: as `encode_empty_prompt`.
    """
    for pipeline in map(Path, pipelines(folder.absolute().as_posix())):
        if (pipeline / TEXT_ENCODER).is_dir() and (pipeline / TOKENIZER).is_dir():
            logger.info("Encoding the empty prompt with %s", pipeline / TEXT_ENCODER)
            return encode_empty_prompt(pipeline / TEXT_ENCODER, pipeline / TOKENIZER)
    return None


def encode_empty_prompt(text_encoder: str | os.PathLike, tokenizer: str | os.PathLike) -> torch.Tensor:
    """The text encoder's output for "", padded to 77 tokens: [1, 77, D] float32.

    text_encoder, tokenizer: folders in transformers' layout (CLIPTextModel, CLIPTokenizer).
    Raises: FileNotFoundError for a missing folder, config or weights; ValueError for one that cannot be loaded whole.
    Source: SPEC §1 (empty-prompt embedding).
    """
    from transformers import CLIPTextConfig, CLIPTokenizer

    tokens = _transformers_load(CLIPTokenizer, tokenizer, "tokenizer")
    config = _transformers_load(CLIPTextConfig, text_encoder, "text encoder")
    checkpoint, _ = open_model(text_encoder, TEXT)  # transformers itself takes memory for what the config says before it looks at the weights
    ids = tokens("", padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt").input_ids
    return run_text_encoder(config, checkpoint.tensors, ids, checkpoint.path)


def _transformers_load(kind: type, path: str | os.PathLike, what: str):
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{what} folder {Path(path).name!r} must exist, looked in {Path(path).parent.resolve()}. Check the path.")
    try:
        return kind.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises many kinds, down to bare Exception, for a damaged folder
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} must be a whole {kind.__name__} folder, but transformers could not load it ({first}).") from error
