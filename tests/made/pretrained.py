"""Small models, folders and data of the kinds that a training run begins from."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffharmony.tests.made.models import unet as make_unet
from diffharmony.tests.made.models import vae as make_vae
from diffharmony.train.config import DataConfig, OptimConfig, RunConfig

VOCABULARY = 9  # the last two are the start and end tokens, as in CLIP's own


def make_text_encoder():
    torch.manual_seed(2)
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=77, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
    )).eval()  # fmt: skip


def empty_prompt(text_encoder):
    with torch.no_grad():
        return text_encoder(torch.tensor([[VOCABULARY - 2] + [VOCABULARY - 1] * 76])).last_hidden_state


def write_tokenizer(folder):
    folder.mkdir(parents=True)
    words = ["a</w>", "b</w>", "c</w>", "d</w>", "e</w>", "f</w>", "g</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def write_pipeline(folder, text_encoder, in_channels=9):
    make_vae().save_pretrained(folder / "vae")
    make_unet(in_channels).save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    (folder / "model_index.json").write_text("{}")
    return folder


def write_data(root):
    """Four composites in iHarmony4's layout."""
    rng = np.random.default_rng(0)
    for folder in ("composite_images", "masks", "real_images"):
        (root / "HCOCO" / folder).mkdir(parents=True)
    for index in range(4):
        real = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 4:16] = 255
        Image.fromarray(real).save(root / "HCOCO" / "real_images" / f"a{index}.png")
        Image.fromarray(mask).save(root / "HCOCO" / "masks" / f"a{index}_1.png")
        Image.fromarray(np.where(mask[..., None] > 0, real // 2, real)).save(root / "HCOCO" / "composite_images" / f"a{index}_1_1.png")
    (root / "IHD_train.txt").write_text("".join(f"HCOCO/composite_images/a{index}_1_1.png\n" for index in range(4)))
    return root


def run_options(data, out, **optim):
    return dict(
        data=DataConfig(roots=(data,), size=32, workers=0), run=RunConfig(out=out, save_every=2, sample_every=2, samples=1),
        optim=OptimConfig(**{"learning_rate": 1e-3, "batch_size": 2, "steps": 2, **optim}),
    )  # fmt: skip


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def same_config(one, other):
    """What makes the architecture: everything but the sample size, which only names a typical input."""
    return all(
        other.config[name] == value or list(other.config[name]) == list(value)
        for name, value in one.config.items() if not name.startswith("_") and name != "sample_size"
    )  # fmt: skip
