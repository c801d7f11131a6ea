"""The Harmony-VAE: an AutoencoderKL whose decoder can be conditioned on an image and its foreground mask."""

from __future__ import annotations

import inspect

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from ..common.masks import check_batch
from .blocks import ConditionalEncoder, HarmonyCondition, decode_with_condition, randomize, zero_conv
from .bounded import TileByTile
from .exact import Lockstep
from .maps import Store
from .passes import decoder_passes, encoder_passes
from .tiles import TILE_MODES, check_tile

TRAINABLE_PARTS = ("encoder_and_decoder", "conditional_encoder")
INITIALIZATIONS = ("zero", "random")


class HarmonyVAE(AutoencoderKL):
    """AutoencoderKL plus a conditional encoder E_c whose features enter the decoder through zero convolutions.

    Everything of AutoencoderKL works as it does there (`encode`, `decode(z)`, slicing, tiling, use as a pipeline's `vae=`).
    Config: AutoencoderKL's fields and `additional_in_channels`, the mask's channels.
    Source: SPEC §3; parameter names SPEC §10.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        additional_in_channels: int = 1,
    ):
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            force_upcast=force_upcast,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.conditional_encoder = ConditionalEncoder(
            additional_in_channels=additional_in_channels,
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            norm_num_groups=norm_num_groups,
            double_z=True,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.latent_skip_conv = zero_conv(latent_channels, latent_channels)

    @classmethod
    def from_autoencoder_kl(
        cls, autoencoder_kl: AutoencoderKL, initialization: str = "zero", generator: torch.Generator | None = None
    ) -> HarmonyVAE:
        """A Harmony-VAE of any AutoencoderKL's config and weights: E_c starts as a copy of E, and
        `decode(z, condition)` equals `decode(z)` bit for bit.

        initialization: `zero`, or `random` for the paper's ablation: the mask convolution and every zero convolution start as
        PyTorch starts convolutions, drawn from `generator` (None: the global one), and the condition changes the decode.
        Raises: ValueError when `autoencoder_kl` is not an AutoencoderKL, or is a Harmony-VAE already, or for another
        `initialization`. Source: SPEC §3, §9.
        """
        if initialization not in INITIALIZATIONS:
            raise ValueError(f"initialization must be one of {', '.join(INITIALIZATIONS)}, got {initialization!r}. Pass one of these.")
        if not isinstance(autoencoder_kl, AutoencoderKL) or isinstance(autoencoder_kl, HarmonyVAE):
            raise ValueError(
                f"autoencoder_kl must be a plain diffusers AutoencoderKL, got {type(autoencoder_kl).__name__}. "
                "Load one with AutoencoderKL.from_pretrained."
            )
        fields = inspect.signature(cls.__init__).parameters
        config = {name: value for name, value in autoencoder_kl.config.items() if name in fields}
        vae = cls(**config)
        vae.load_state_dict(autoencoder_kl.state_dict(), strict=False)
        vae.conditional_encoder.load_state_dict(autoencoder_kl.encoder.state_dict(), strict=False)
        if initialization == "random":
            for conv in vae.zero_convs():
                randomize(conv, generator)
        return torch.nn.Module.to(vae, device=autoencoder_kl.device, dtype=autoencoder_kl.dtype)

    @property
    def spatial_factor(self) -> int:
        """Image pixels per latent pixel along one side (8 for Stable Diffusion)."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def zero_convs(self) -> list[torch.nn.Conv2d]:
        """The convolutions that start at zero: the mask's, one per skip feature, the mid block's and the latent's. Source: SPEC §3."""
        encoder = self.conditional_encoder
        return [encoder.add_conv_in, *encoder.down_block_skip_convs, encoder.mid_block_skip_conv, self.latent_skip_conv]

    def set_trainable(self, parts: str = "encoder_and_decoder") -> list[torch.nn.Parameter]:
        """Freeze everything but the parts that train, and return their parameters.

        parts: `encoder_and_decoder` (E_c, D and all zero convolutions) or `conditional_encoder` (E_c and the zero
        convolutions; the ablation). E, quant_conv and post_quant_conv are always frozen.
        Raises: ValueError for any other `parts`. Source: SPEC §3, "Training".
        """
        if parts not in TRAINABLE_PARTS:
            raise ValueError(f"trainable parts must be one of {', '.join(TRAINABLE_PARTS)}, got {parts!r}. Pass one of these.")
        self.requires_grad_(False)
        self.conditional_encoder.requires_grad_(True)
        self.latent_skip_conv.requires_grad_(True)
        if parts == "encoder_and_decoder":
            self.decoder.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @apply_forward_hook
    def encode_condition(
        self, image: torch.Tensor, mask: torch.Tensor, generator: torch.Generator | None = None
    ) -> HarmonyCondition:
        """Encode the condition image and its mask with E_c; the result serves any number of `decode` calls.

        image: [B,3,H,W] in [-1,1], in the model's dtype; H and W multiples of `spatial_factor`.
        mask: [B,1,H,W] in {0,1}, 1 = foreground. generator: None takes the posterior's mode, else a sample of it.
        Raises: ValueError for shapes that do not fit. Source: SPEC §3.
        """
        self._check_condition_inputs(image, mask)
        if self.use_slicing and image.shape[0] > 1 and generator is None:
            parts = [self.encode_condition(i, m) for i, m in zip(image.split(1), mask.split(1))]
            return HarmonyCondition(
                tuple(torch.cat(features) for features in zip(*(part.skip_features for part in parts))),
                torch.cat([part.mid_skip_feature for part in parts]),
                torch.cat([part.latent for part in parts]),
            )
        moments, skip_features, mid_skip_feature = self.conditional_encoder(image, mask.to(image.dtype))
        posterior = self._posterior(moments)
        latent = posterior.mode() if generator is None else posterior.sample(generator)
        return HarmonyCondition(skip_features, mid_skip_feature, latent)

    @apply_forward_hook
    def decode(
        self,
        z: torch.Tensor,
        condition: HarmonyCondition | None = None,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents, plainly or under a condition.

        z: [B,latent_channels,h,w], unscaled latents. condition: of the same batch, or of batch 1, which serves any batch.
        Returns `.sample`, the image [B,3,h*f,w*f] in about [-1,1]. `generator` is accepted for diffusers' sake and unused.
        Raises: ValueError when batch or size of the condition does not fit z. Source: SPEC §3, eq. 2.
        """
        if isinstance(condition, bool):  # diffusers' second positional argument is return_dict
            condition, return_dict = None, condition
        if condition is None:
            return super().decode(z, return_dict=return_dict)
        self._check_condition_fits(z, condition)
        if self.use_slicing and z.shape[0] > 1:
            shared = condition.batch_size == 1
            parts = [
                self._decode_conditionally(z[i : i + 1], condition if shared else condition[i : i + 1])
                for i in range(z.shape[0])
            ]
            sample = torch.cat(parts)
        else:
            sample = self._decode_conditionally(z, condition)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    @torch.no_grad()
    def decode_tiled(
        self,
        z: torch.Tensor,
        image: torch.Tensor,
        mask: torch.Tensor,
        tile: int = 512,
        mode: str = "exact",
        *,
        refinements: int = 1,
        store: Store = None,
    ) -> DecoderOutput:
        """Decode `z` under the condition (image, mask) in tiles, one image after the other; what `decode(z, condition)` gives, in less memory.

        z: [B,latent_channels,h,w], unscaled. image: [B or 1,3,h*f,w*f] in [-1,1]. mask: [B or 1,1,h*f,w*f] in {0,1}.
        tile: side of a tile in image pixels, a multiple of f and at least 4 f. mode: see `TILE_MODES`.
        refinements, for `bounded`: passes over all tiles before the last. store, for `exact`: where feature maps live between passes:
        a device, or a folder (a Path) for memory-mapped files; None: where `z` is.
        Returns [B,3,h*f,w*f] in about [-1,1]. No gradients.
        Raises: ValueError for sizes, batches, tile or mode that do not fit. Source: SPEC §3; DESIGN.md, "Contracts".
        """
        self._check_tiling(tile, mode, refinements)
        self._check_tiled_inputs(z, image, mask)
        pixels = torch.cat([part.expand(max(image.shape[0], mask.shape[0]), -1, -1, -1).to(z) for part in (image, mask)], 1)
        encoder, decoder = encoder_passes(self.conditional_encoder), decoder_passes(self.decoder)
        convs = self.conditional_encoder.skip_convs
        images = z.split(1)
        if mode == "bounded":
            tiles = TileByTile(
                encoder, self.spatial_factor, tile, decoder, convs, lambda m, z: self._decoder_input(z, self._posterior(m).mode()),
                lambda pixels: self._posterior(self.encoder(pixels[:, : image.shape[1]])).mode(),
            )  # fmt: skip
            parts = [tiles.run(pixels[i % len(pixels)].unsqueeze(0), one, refinements) for i, one in enumerate(images)]
            return DecoderOutput(sample=torch.cat(parts))
        lockstep, parts = Lockstep(tuple(image.shape[2:]), tile, z.device, store), []
        for index, one in enumerate(images):
            if index == 0 or len(pixels) > 1:
                moments, features = lockstep.encode(encoder, pixels[index].unsqueeze(0))
                latent = self._posterior(moments).mode()
            last = len(pixels) > 1 or index == len(images) - 1
            parts.append(lockstep.decode(decoder, self._decoder_input(one, latent), features, convs, last))
        return DecoderOutput(sample=torch.cat(parts))

    @torch.no_grad()
    def encode_tiled(
        self, image: torch.Tensor, tile: int = 512, mode: str = "exact", *, refinements: int = 1, store: Store = None
    ) -> AutoencoderKLOutput:
        """What `encode(image)` gives, in tiles; arguments and errors as of `decode_tiled`. image: [B,3,h*f,w*f] in [-1,1]. No gradients."""
        self._check_tiling(tile, mode, refinements)
        self._check_image(image)
        encoder = encoder_passes(self.encoder)
        if mode == "bounded":
            tiles = TileByTile(encoder, self.spatial_factor, tile)
            moments = [tiles.run(one, refinements=refinements) for one in image.split(1)]
        else:
            lockstep = Lockstep(tuple(image.shape[2:]), tile, image.device, store)
            moments = [lockstep.encode(encoder, one, keep_features=False)[0] for one in image.split(1)]
        return AutoencoderKLOutput(latent_dist=self._posterior(torch.cat(moments)))

    def _posterior(self, moments: torch.Tensor) -> DiagonalGaussianDistribution:
        return DiagonalGaussianDistribution(moments if self.quant_conv is None else self.quant_conv(moments))

    def _decoder_input(self, z: torch.Tensor, condition_latent: torch.Tensor) -> torch.Tensor:
        if self.post_quant_conv is not None:
            z, condition_latent = self.post_quant_conv(z), self.post_quant_conv(condition_latent)
        return z + self.latent_skip_conv(condition_latent)

    def _decode_conditionally(self, z: torch.Tensor, condition: HarmonyCondition) -> torch.Tensor:
        return decode_with_condition(self.decoder, self._decoder_input(z, condition.latent), condition)

    def _check_tiling(self, tile: int, mode: str, refinements: int) -> None:
        check_tile(tile, self.spatial_factor)
        if mode not in TILE_MODES:
            raise ValueError(f"mode must be one of {', '.join(TILE_MODES)}, got {mode!r}. Pass one of these.")
        if not isinstance(refinements, int) or isinstance(refinements, bool) or refinements < 0:
            raise ValueError(f"refinements must be a whole number of at least 0, got {refinements!r}. 1 is enough for photographs.")

    def _check_condition_inputs(self, image: torch.Tensor, mask: torch.Tensor) -> None:
        self._check_image(image)
        channels = self.config.additional_in_channels
        if mask.ndim != 4 or mask.shape[1] != channels:
            raise ValueError(f"mask must be [B, {channels}, H, W], got {list(mask.shape)}. Add the channel dimension.")
        if mask.shape[0] != image.shape[0] or mask.shape[2:] != image.shape[2:]:
            raise ValueError(
                f"mask must have the image's batch and size {[image.shape[0], *image.shape[2:]]}, "
                f"got {[mask.shape[0], *mask.shape[2:]]}. Resize or repeat it first."
            )

    def _check_image(self, image: torch.Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != self.config.in_channels:
            raise ValueError(
                f"image must be [B, {self.config.in_channels}, H, W], got {list(image.shape)}. Pass an RGB batch in [-1, 1]."
            )
        factor = self.spatial_factor
        if image.shape[2] % factor or image.shape[3] % factor:
            raise ValueError(
                f"image height and width must be multiples of {factor}, got {image.shape[2]} x {image.shape[3]}. "
                "Pad or crop the image and the mask first."
            )

    def _check_tiled_inputs(self, z: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> None:
        factor = self.spatial_factor
        expected = [z.shape[2] * factor, z.shape[3] * factor]
        for name, tensor in (("image", image), ("mask", mask)):
            if list(tensor.shape[2:]) != expected:
                raise ValueError(
                    f"{name} must be {expected[0]} x {expected[1]} (the latent's size times {factor}), got {list(tensor.shape[2:])}. "
                    "Resize it first."
                )
            check_batch(name, tensor.shape[0], z.shape[0])

    def _check_condition_fits(self, z: torch.Tensor, condition: HarmonyCondition) -> None:
        if z.shape[2:] != condition.latent.shape[2:]:
            raise ValueError(
                f"condition must have the latent's size {list(z.shape[2:])}, got {list(condition.latent.shape[2:])}. "
                "Encode the condition from an image of the size that the latent stands for."
            )
        check_batch("condition", condition.batch_size, z.shape[0])
