"""The refinement model: diffusers' UNet blocks without a time embedding, from a harmonized image to a better one."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from torch import nn

# Input channels -> what is stacked after the harmonized image, in order. The authors' code has all but 6.
EXTRA_INPUTS = {3: (), 4: ("mask",), 6: ("composite",), 7: ("mask", "composite")}
# The authors' fixed size; their own configs say it too.
STAGE_SIZE = 256


class HarmonyRefinement(ModelMixin, ConfigMixin):
    """A UNet of diffusers' blocks without a time embedding, which adds its output to the harmonized image (`input_residual`).

    sample_size: the size that the stage runs at, one side or (height, width); None is 256. in_channels: 3 (harmonized), 4 (+ mask),
    6 (+ composite) or 7 (+ mask + composite). The other fields are those of diffusers' UNet2DModel. Defaults of fields that no
    parameter's shape shows are the authors' class's, so that a config that leaves one out means what it means there; the
    released models have downsample_padding 0, norm_eps 1e-6, attention_head_dim None and input_residual on.
    Raises: ValueError for channels, sizes or block lists that do not go together. Source: SPEC §10.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = STAGE_SIZE,
        in_channels: int = 7,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownBlock2D",) * 4,
        up_block_types: tuple[str, ...] = ("UpBlock2D",) * 4,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        act_fn: str = "silu",
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        input_residual: bool = False,
    ):
        super().__init__()
        widths = tuple(block_out_channels)
        self._check(in_channels, out_channels, down_block_types, up_block_types, widths)
        shared = dict(
            temb_channels=None, resnet_eps=norm_eps, resnet_act_fn=act_fn, resnet_groups=norm_num_groups,
            resnet_time_scale_shift=resnet_time_scale_shift,
        )  # fmt: skip
        self.conv_in = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, (kind, width) in enumerate(zip(down_block_types, widths)):
            block = get_down_block(
                kind,
                num_layers=layers_per_block,
                in_channels=widths[max(level - 1, 0)],
                out_channels=width,
                add_downsample=level < len(widths) - 1,
                attention_head_dim=attention_head_dim or width,
                downsample_padding=downsample_padding,
                downsample_type=downsample_type,
                **shared,
            )
            self.down_blocks.append(block)
        self.mid_block = UNetMidBlock2D(
            in_channels=widths[-1],
            output_scale_factor=mid_block_scale_factor,
            attention_head_dim=attention_head_dim or widths[-1],
            add_attention=add_attention,
            **shared,
        )
        self.up_blocks = nn.ModuleList()
        for level, kind in zip(reversed(range(len(widths))), up_block_types):
            block = get_up_block(
                kind,
                num_layers=layers_per_block + 1,
                in_channels=widths[max(level - 1, 0)],
                out_channels=widths[level],
                prev_output_channel=widths[min(level + 1, len(widths) - 1)],
                add_upsample=level > 0,
                attention_head_dim=attention_head_dim or widths[level],
                upsample_type=upsample_type,
                **shared,
            )
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)
        if any(side < 1 or side % self.spatial_factor for side in self.size):
            raise ValueError(
                f"sample_size must be a multiple of {self.spatial_factor} for {len(widths)} levels, got {sample_size}. Choose 256, say."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the stage runs at."""
        size = self.config.sample_size or STAGE_SIZE
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def spatial_factor(self) -> int:
        """What the height and width of an input must divide by."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def stack(self, harmonized: torch.Tensor, composite: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The model's input, [B,in_channels,H,W]: the harmonized image and, as `in_channels` says, mask and composite.

        harmonized, composite: [B,3,H,W] in [-1,1]. mask: [B,1,H,W] in {0,1}. Raises: ValueError when one that is needed is None.
        """
        given = {"mask": mask, "composite": composite}
        parts = [harmonized]
        for name in EXTRA_INPUTS[self.config.in_channels]:
            if given[name] is None:
                raise ValueError(
                    f"{name} must be given to a refinement model of {self.config.in_channels} input channels, got None. Pass it."
                )
            parts.append(given[name].to(harmonized))
        return torch.cat(parts, dim=1)

    def forward(self, sample: torch.Tensor, return_dict: bool = True) -> UNet2DOutput | tuple[torch.Tensor]:
        """sample: [B,in_channels,H,W] from `stack`, any H and W that divide by `spatial_factor`.

        Returns `.sample`, the refined image [B,3,H,W] in about [-1,1] (not clamped).
        Raises: ValueError for another shape. Source: SPEC §10.
        """
        channels, factor = self.config.in_channels, self.spatial_factor
        if sample.ndim != 4 or sample.shape[1] != channels or any(side % factor for side in sample.shape[2:]):
            raise ValueError(
                f"sample must be [B, {channels}, H, W] with sides that are multiples of {factor}, got {list(sample.shape)}. "
                "Make it with stack(), of resized images."
            )
        hidden = self.conv_in(sample)
        features = [hidden]
        for block in self.down_blocks:
            hidden, produced = block(hidden)
            features.extend(produced)
        hidden = self.mid_block(hidden)
        for block in self.up_blocks:
            count = len(block.resnets)
            hidden = block(hidden, tuple(features[-count:]))
            del features[-count:]
        refined = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        if self.config.input_residual:
            refined = refined + sample[:, : self.config.out_channels]
        return UNet2DOutput(sample=refined) if return_dict else (refined,)

    @staticmethod
    def _check(in_channels: int, out_channels: int, down: tuple[str, ...], up: tuple[str, ...], widths: tuple[int, ...]) -> None:
        if in_channels not in EXTRA_INPUTS:
            raise ValueError(
                f"in_channels must be one of {', '.join(map(str, EXTRA_INPUTS))}, got {in_channels}. "
                "7 takes the harmonized image, the mask and the composite."
            )
        if out_channels != 3:
            raise ValueError(f"out_channels must be 3, got {out_channels}. The stage gives an RGB image.")
        if not widths or not len(down) == len(up) == len(widths):
            raise ValueError(
                f"down_block_types and up_block_types must be one per width ({len(widths)}), got {len(down)} and {len(up)}. Name as many."
            )
