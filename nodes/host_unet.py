"""A harmonization UNet as the host's MODEL, at any size, where the host itself knows only the size of Stable Diffusion 1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from comfy import model_management

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

MODEL_TYPES = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
# Block type -> whether it has attention.
DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
# What the host's UNet has built in and takes no setting for.
FIXED_IN_HOST = {
    "norm_num_groups": 32,
    "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default",
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
    "only_cross_attention": False,
}


class HarmonizationModel(comfy.supported_models.SD15):
    """Stable Diffusion 1.5 (its latent scale, its noise levels) with a UNet of any size and either prediction type."""

    # BASE writes these over the config of the instance.
    unet_extra_config: dict[str, Any] = {}

    def __init__(self, unet_config: dict[str, Any], prediction_type: str):
        super().__init__(unet_config)
        self.prediction_type = prediction_type

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return MODEL_TYPES[self.prediction_type]


def host_model(unet: UNet2DConditionModel, prediction_type: str) -> comfy.model_patcher.ModelPatcher:
    """The host's MODEL of a diffusers UNet, managed by the host's memory management.

    Raises: ValueError for an architecture that the host's UNet cannot be.
    """
    config = host_config(unet.config)
    tensors = unet.state_dict()
    load_device = model_management.get_torch_device()
    model_config = HarmonizationModel(config, prediction_type)
    supported = list(model_config.supported_inference_dtypes)
    dtype = model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(tensors), supported_dtypes=supported, weight_dtype=comfy.utils.weight_dtype(tensors)
    )
    cast_dtype = model_management.unet_manual_cast(dtype, load_device, supported)
    model_config.set_inference_dtype(dtype, cast_dtype)
    host_tensors = renamed(tensors, config)
    model = model_config.get_model(host_tensors)
    offload_device = model_management.unet_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=load_device, offload_device=offload_device)
    if not model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(host_tensors, assign=patcher.is_dynamic())
    return patcher


def host_config(config: Any) -> dict[str, Any]:
    """The host's UNet config of a diffusers one.

    Raises: ValueError naming the field that the host's UNet cannot follow.
    """
    for name, value in FIXED_IN_HOST.items():
        _require(name, config.get(name, value), value)
    widths = list(config["block_out_channels"])
    if any(width % widths[0] or width % 32 for width in widths):
        raise ValueError(f"block_out_channels must be multiples of the first and of 32, got {widths}. ComfyUI cannot run this UNet.")
    layers = _per_level(config["layers_per_block"], len(widths))
    depths = _per_level(config.get("transformer_layers_per_block", 1), len(widths))
    down = [_has_attention(DOWN_BLOCKS, kind) for kind in config["down_block_types"]]
    up = [_has_attention(UP_BLOCKS, kind) for kind in config["up_block_types"]][::-1]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": layers,
        "transformer_depth": [d * a for n, d, a in zip(layers, depths, down) for _ in range(n)],
        "transformer_depth_output": [d * a for n, d, a in zip(layers, depths, up) for _ in range(n + 1)],
        "transformer_depth_middle": depths[-1],
        "context_dim": config["cross_attention_dim"],
        "num_heads": _heads(config),
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "adm_in_channels": None,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def renamed(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Diffusers' parameter names -> the host's.

    Raises: ValueError for parameters that the host's UNet has no place for.
    """
    names = comfy.utils.unet_to_diffusers(config)
    homeless = sorted(name for name in tensors if name not in names)
    if homeless:
        raise ValueError(
            f"UNet must have Stable Diffusion 1.5's kinds of layers, got {len(homeless)} parameters besides, such as {homeless[0]}. "
            "ComfyUI cannot run this UNet."
        )
    return {names[name]: tensor for name, tensor in tensors.items()}


def _heads(config: Any) -> int:
    # Diffusers' attention_head_dim holds the number of heads, unless num_attention_heads is given.
    heads = config.get("num_attention_heads") or config["attention_head_dim"]
    if isinstance(heads, (list, tuple)):
        if len(set(heads)) != 1:
            raise ValueError(f"attention heads must be as many on every level, got {list(heads)}. ComfyUI cannot run this UNet.")
        heads = heads[0]
    return heads


def _has_attention(known: dict[str, bool], kind: str) -> bool:
    if kind not in known:
        raise ValueError(f"UNet blocks must be {' or '.join(known)}, got {kind}. ComfyUI cannot run this UNet.")
    return known[kind]


def _per_level(value: int | list[int], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


def _require(name: str, found: Any, value: Any) -> None:
    if found != value:
        raise ValueError(f"UNet's {name} must be {value}, got {found}. ComfyUI cannot run this UNet.")
