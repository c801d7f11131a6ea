"""A video's frames: the light of each is found under one noise, and averaged over time before it is given (DESIGN.md, data flow 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..common.masks import THRESHOLD, check_foreground
from .inference import ConditionedSampler, default_steps, tell_size
from .sampler import sample_generators
from .transfer import ColourTransform, apply_transform

SMOOTHING = 8.0  # frames
CUT = 0.4  # log gain between two frames' lights from which on they are more and more taken for two scenes

Frames = Sequence[tuple[torch.Tensor, torch.Tensor]]


def harmonize_frames(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    frames: Frames,
    *,
    smoothing: float = SMOOTHING,
    seed: int = 0,
    steps: int | None = None,
    strength: float = 1.0,
    paste_background: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Iterator[torch.Tensor]:
    """Relight the foreground of a video's frames, smoothly over time, one frame after the other: [1, 3, H, W], dtype and device of each.

    frames: composite [1, 3, H, W], floating, -1..1, and mask [1, 1, H, W], 0..1, of each. Every frame is asked for twice, once to find its
    light and once to give it, so a sequence that reads files holds one frame at a time, whatever their number.
    smoothing: over how many frames, a standard deviation, lights are averaged; 0 leaves each frame its own. Lights far from each other, as
    of two scenes, are not averaged. A frame whose mask marks nothing comes back as it is. seed: of the noise, which all frames share.
    progress: called with (frames whose light is found, frames). steps, strength, paste_background: as in `harmonize`; options: its size,
    conditional, tile, refinement, device.
    Raises: ValueError as `harmonize`, and where no frame's mask marks anything. Source: DESIGN.md, data flow 5.
    """
    if not (smoothing >= 0 and math.isfinite(smoothing)):
        raise ValueError(f"smoothing must be a number of frames of at least 0, got {smoothing!r}. 0 smooths nothing.")
    steps = default_steps(unet, "transfer") if steps is None else steps
    lights: list[ColourTransform | None] = []
    brightest = torch.zeros(1)
    for index in range(len(frames)):
        composite, mask = frames[index]
        sampler = ConditionedSampler(vae, unet, composite, mask, detail="transfer", strength=strength, paste_background=paste_background, **options)
        tell_size(sampler.working_size, tuple(composite.shape[-2:]), tuple(getattr(unet, "sizes", ())))
        brightest = torch.maximum(brightest, mask.max().float().cpu())
        marked = bool((mask >= THRESHOLD).any())
        lights.append(sampler.light(sample_generators(seed, 1), steps=steps) if marked else None)
        if progress is not None:
            progress(index + 1, len(frames))
    check_foreground(brightest, name="the frames' masks")
    for index, light in enumerate(lights):
        composite, mask = frames[index]
        if light is None:
            yield composite.clone()
            continue
        light = smoothed(lights, index, smoothing)
        yield apply_transform(light.scaled(strength), composite, mask, paste_background=paste_background)


def smoothed(lights: Sequence[ColourTransform | None], index: int, smoothing: float) -> ColourTransform:
    """The light at `index`, averaged with its neighbours' in time. None where a frame has none; lights are of batch 1.

    smoothing: standard deviation in frames; 0 takes none of the neighbours. Returns: of batch 1 and strength 1.
    """
    reach = min(len(lights), math.ceil(3 * smoothing))
    near = [(place, lights[place]) for place in range(max(0, index - reach), min(len(lights), index + reach + 1)) if lights[place] is not None]
    middle = lights[index]
    weights = [
        math.exp(-((place - index) ** 2) / (2 * smoothing**2) - float((_gains(light) - _gains(middle)).square().max()) / (2 * CUT**2))
        if place != index else 1.0
        for place, light in near
    ]  # fmt: skip
    total = sum(weights)

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        return sum(weight / total * value for weight, value in zip(weights, values))

    pivot = middle.pivot
    # at one pivot, whose shift is a gain
    gains = [_gains(light) + light.strength * light.contrast * (pivot - light.pivot) for _, light in near]
    size = middle.field.shape[-2:]
    fields = [
        light.strength[..., None, None] * torch.nn.functional.interpolate(light.field, size, mode="bilinear", align_corners=False)
        for _, light in near
    ]  # fmt: skip
    return ColourTransform(
        mean(gains), mean([light.strength * light.contrast for _, light in near]), pivot, mean(fields), torch.ones_like(middle.strength)
    )


def _gains(light: ColourTransform) -> torch.Tensor:
    return light.strength * light.log_gains
