"""Diffusers' parameter names -> the original Stable Diffusion layout's: the tests' own mapping, the other way round."""

from __future__ import annotations

import re

import torch

from diffharmony.common import sd_checkpoint

VAE_RENAMES = [
    ("conv_norm_out", "norm_out"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    ("to_out.0", "proj_out"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
]
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_vae(vae, prefix: str = "first_stage_model.") -> dict[str, torch.Tensor]:
    """An AutoencoderKL's parameters by their original names; attention as the 1x1 convolutions that it was."""
    levels = len(vae.config.block_out_channels)
    renamed = {}
    for name, tensor in vae.state_dict().items():
        if "mid_block.attentions" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        for new, old in VAE_RENAMES:
            name = name.replace(new, old)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        renamed[prefix + name] = tensor.contiguous()
    return renamed


def original_unet(unet) -> dict[str, torch.Tensor]:
    """A UNet2DConditionModel's parameters by their original names."""
    layers, up = unet.config.layers_per_block, unet.config.up_block_types
    renamed = {}
    for name, tensor in unet.state_dict().items():
        for new, old in UNET_ENDS.items():
            if name.startswith(new + "."):
                name = name.replace(new, old, 1)
        if ".resnets." in name:
            for new, old in UNET_RESNET.items():
                name = name.replace(f".{new}.", f".{old}.")
        name = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
        name = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", name)
        down = r"^down_blocks\.(\d)\."
        name = re.sub(down + r"resnets\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[2])}.0", name)
        name = re.sub(down + r"attentions\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[2])}.1", name)
        name = re.sub(down + r"downsamplers\.0\.conv", lambda m: f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op", name)
        at = r"^up_blocks\.(\d)\."
        name = re.sub(at + r"resnets\.(\d)", lambda m: f"output_blocks.{int(m[1]) * (layers + 1) + int(m[2])}.0", name)
        name = re.sub(at + r"attentions\.(\d)", lambda m: f"output_blocks.{int(m[1]) * (layers + 1) + int(m[2])}.1", name)
        name = re.sub(
            at + r"upsamplers\.0\.conv",
            lambda m: f"output_blocks.{int(m[1]) * (layers + 1) + layers}.{2 if up[int(m[1])].startswith('Cross') else 1}.conv",
            name,
        )
        renamed["model.diffusion_model." + name] = tensor
    return renamed


def original_text_encoder(encoder) -> dict[str, torch.Tensor]:
    """A CLIPTextModel's parameters by their original names, with the buffer that old files have."""
    prefix = "cond_stage_model.transformer.text_model."
    renamed = {prefix + name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    positions = renamed[f"{prefix}embeddings.position_embedding.weight"].shape[0]
    return {**renamed, f"{prefix}embeddings.position_ids": torch.arange(positions)[None]}


def take_for_stable_diffusion(monkeypatch, vae, unet, text_encoder) -> None:
    """Let files in the original layout be read by these models' configs: Stable Diffusion's own are too large for tests."""
    for name, config in (("VAE", vae.config), ("UNET", unet.config)):
        monkeypatch.setattr(sd_checkpoint, name, {field: value for field, value in config.items() if not field.startswith("_")})
    monkeypatch.setattr(sd_checkpoint, "TEXT", {field: getattr(text_encoder.config, field) for field in sd_checkpoint.TEXT})
