"""Sampling: Euler-ancestral steps from pure noise to a harmonized latent (SPEC §2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor

from .unet import check_empty_prompt, empty_prompt_of

STEPS = 5
Scheduler = EulerAncestralDiscreteScheduler | EulerDiscreteScheduler
Generators = torch.Generator | Sequence[torch.Generator] | None
Progress = Callable[[int, int], None]

SETTINGS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "linspace",
}


def build_scheduler(prediction_type: str = "epsilon", *, ancestral: bool = True) -> Scheduler:
    """Build diffusers' Euler-ancestral scheduler (or the plain Euler one) with Stable Diffusion's noise levels.

    prediction_type: "epsilon" or "v_prediction", as the UNet was trained.
    Source: SPEC §2 (sigmas 14.6146, 4.0861, 1.6156, 0.6952, 0.0292, 0 at 5 steps).
    """
    kind = EulerAncestralDiscreteScheduler if ancestral else EulerDiscreteScheduler
    return kind(**SETTINGS, prediction_type=prediction_type)


def sample_generators(seed: int | Sequence[int], batch: int) -> list[torch.Generator]:
    """One CPU generator per image: image i of a batch is seeded with seed + i, or with seed[i] where a list is given.

    Each image's noise then depends on its own seed only: not on batch size, device, or precision.
    Raises: ValueError for anything but whole numbers, or a list of another length.
    """
    values = [seed] if isinstance(seed, Integral) or not isinstance(seed, Iterable) else list(seed)
    if not all(isinstance(value, Integral) for value in values):
        raise ValueError(f"seed must be a whole number, or one for each image, got {seed!r}. Pass 0 for instance.")
    seeds = [int(seed) + index for index in range(batch)] if isinstance(seed, Integral) else [int(value) for value in values]
    if len(seeds) != batch:
        raise ValueError(f"seed must be one number or one per image ({batch}), got {len(seeds)} numbers. Pass one number.")
    # torch takes 64-bit seeds; a seed near the top of the range plus an index must not overflow
    return [torch.Generator("cpu").manual_seed(value % 2**63) for value in seeds]


def model_input(noisy_latent: torch.Tensor, mask_latent: torch.Tensor, condition_latent: torch.Tensor) -> torch.Tensor:
    """Stack the UNet's 9 input channels in their order: noisy latent (4), mask (1), condition latent (4).

    noisy_latent, condition_latent: [B, 4, h, w]. mask_latent: [B, 1, h, w], {0, 1}. Returns: [B, 9, h, w].
    Source: SPEC §2.
    """
    return torch.cat([noisy_latent, mask_latent, condition_latent], dim=1)


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel,
    condition_latent: torch.Tensor,
    mask_latent: torch.Tensor,
    *,
    steps: int = STEPS,
    generator: Generators = None,
    ancestral: bool = True,
    noise: torch.Tensor | None = None,
    scheduler: Scheduler | None = None,
    empty_prompt_embeds: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Sample harmonized (or, with the inverse UNet, composite) latents from pure noise.

    condition_latent: [B, 4, h, w], scaled (E(I) * scaling_factor). mask_latent: [B or 1, 1, h, w], {0, 1}.
    generator: one torch.Generator, or one per image (see `sample_generators`); None draws from torch's global one.
    ancestral: False takes plain Euler steps, without added noise. noise: [B, 4, h, w] of unit variance to start from,
    instead of drawing it. scheduler: instead of `build_scheduler(unet.prediction_type, ancestral=ancestral)`; it is left
    with its timesteps set. progress: called with (steps done, steps) after each step.
    Returns: [B, 4, h, w] float32, scaled, on condition_latent's device. State between steps is float32 whatever the
    UNet's dtype.
    Raises: ValueError for shapes that do not fit, steps below 1, or a UNet without an empty-prompt embedding.
    Source: SPEC §2 (Euler-ancestral, 5 steps, no guidance, empty prompt).
    """
    _check_latents(condition_latent, mask_latent, noise, steps)
    batch = condition_latent.shape[0]
    if isinstance(generator, Sequence) and len(generator) != batch:
        raise ValueError(f"generator must be one or one per image ({batch}), got {len(generator)}. See sample_generators.")
    generator = list(generator) if isinstance(generator, Sequence) else generator
    device, dtype = condition_latent.device, unet.dtype
    if scheduler is None:
        scheduler = build_scheduler(getattr(unet, "prediction_type", "epsilon"), ancestral=ancestral)
    scheduler = _with_timesteps(scheduler, steps, device)

    prompt = empty_prompt_of(unet) if empty_prompt_embeds is None else check_empty_prompt(empty_prompt_embeds, unet)
    prompt = prompt.to(device=device, dtype=dtype).expand(batch, -1, -1)
    condition = condition_latent.to(dtype)
    mask = mask_latent.to(device=device, dtype=dtype).expand(batch, -1, -1, -1)
    if noise is None:
        noise = randn_tensor(tuple(condition_latent.shape), generator=generator, device=device, dtype=torch.float32)
    latent = noise.to(device=device, dtype=torch.float32) * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latent, timestep).to(dtype)
        prediction = unet(model_input(scaled, mask, condition), timestep, encoder_hidden_states=prompt).sample
        latent = scheduler.step(prediction.float(), timestep, latent, generator=generator).prev_sample
        if progress is not None:
            progress(index + 1, len(scheduler.timesteps))
    return latent


def _with_timesteps(scheduler: Scheduler, steps: int, device: torch.device) -> Scheduler:
    if steps == 1 and scheduler.config.timestep_spacing == "linspace":
        # linspace(0, 999, 1) is [0]: the whole way would be one step at the lowest noise level. One step has no
        # ancestral noise, so plain Euler from 999 is the same sampler with the right start.
        scheduler = EulerDiscreteScheduler.from_config(scheduler.config)
        scheduler.set_timesteps(timesteps=[scheduler.config.num_train_timesteps - 1.0], device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    return scheduler


def _check_latents(condition: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor | None, steps: int) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}. 5 is what the model is meant for.")
    if condition.ndim != 4 or condition.shape[1] != 4:
        raise ValueError(
            f"condition_latent must have shape [B, 4, h, w], got {list(condition.shape)}. Encode the composite with the VAE."
        )
    batch, _, height, width = condition.shape
    if mask.ndim != 4 or mask.shape[0] not in (1, batch) or tuple(mask.shape[1:]) != (1, height, width):
        raise ValueError(
            f"mask_latent must have shape [{batch} or 1, 1, {height}, {width}], got {list(mask.shape)}. Use mask_to_latent."
        )
    if noise is not None and noise.shape != condition.shape:
        raise ValueError(f"noise must have shape {list(condition.shape)}, got {list(noise.shape)}. Draw it in that shape.")
