"""The two directions, harmonize and invert: which image is condition and which is target, and models that must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

Direction = Literal["harmonize", "invert"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


def check_direction(direction: str, name: str = "direction") -> None:
    """Refuse what is neither of the two. Raises: ValueError."""
    if direction not in DIRECTIONS:
        raise ValueError(f"{name} must be one of {', '.join(DIRECTIONS)}, got {direction!r}. Pass one of these.")


def condition_and_target(batch: dict[str, torch.Tensor], direction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(condition image, target image), each [B,3,H,W]: (composite, real) to harmonize, (real, composite) to invert."""
    if direction == "harmonize":
        return batch["composite"], batch["real"]
    return batch["real"], batch["composite"]


def check_directions(vae: AutoencoderKL, unet: UNet2DConditionModel) -> None:
    """Refuse a Harmony-VAE of one direction with a UNet of the other; a model without `.direction` goes with both.

    Raises: ValueError. Source: SPEC §4 (direction swaps condition and target, in both models).
    """
    of_vae, of_unet = getattr(vae, "direction", None), getattr(unet, "direction", None)
    if None not in (of_vae, of_unet) and of_vae != of_unet:
        raise ValueError(
            f"vae and unet must be of one direction, got a Harmony-VAE for {of_vae!r} and a UNet for {of_unet!r}. "
            "Load the pair that was trained together; where a folder does not say its direction, set vae.direction."
        )


def require_direction(model: torch.nn.Module, wanted: str, name: str) -> None:
    """Refuse a model of the other direction; one without `.direction` passes. Raises: ValueError. Source: SPEC §4."""
    found = getattr(model, "direction", None)
    if found not in (None, wanted):
        raise ValueError(f"{name} must be of direction {wanted!r}, got {found!r}. Load one that was trained with --direction {wanted}.")
