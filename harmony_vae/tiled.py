"""Conditional decode in overlapping tiles: each tile is decoded under the condition of its own part of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .model import HarmonyVAE

MODES = ("exact", "bounded")
OVERLAP = 0.25  # of a tile, shared with its neighbour and blended linearly


def decode_tiled(
    vae: HarmonyVAE, z: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, tile: int = 512, mode: str = "exact"
) -> torch.Tensor:
    """Decode `z` under the condition (image, mask), tile by tile.

    z: [B,latent_channels,h,w], unscaled. image: [B or 1,3,h*f,w*f] in [-1,1]. mask: [B or 1,1,h*f,w*f] in {0,1}.
    tile: side of a tile in image pixels, a multiple of f and at least 4 f. mode: `exact` or `bounded`. Both blend
    overlapping tiles today, so the result is close to `decode(z, condition)`, and equal to it where one tile covers the
    image. Returns [B,3,h*f,w*f] in about [-1,1]; memory beyond inputs and output is that of one tile of one image.
    Raises: ValueError for sizes, batches, tile or mode that do not fit. Source: SPEC §3; DESIGN.md, "Contracts".
    """
    factor = vae.spatial_factor
    _check(vae, z, image, mask, tile, mode)
    size = tile // factor
    rows = _starts(z.shape[2], size)
    columns = _starts(z.shape[3], size)
    result = torch.zeros(z.shape[0], vae.config.out_channels, z.shape[2] * factor, z.shape[3] * factor, dtype=z.dtype, device=z.device)
    for index in range(z.shape[0]):
        one_image, one_mask = (t[index % t.shape[0]].unsqueeze(0) for t in (image, mask))
        weights = torch.zeros(1, 1, *result.shape[2:], dtype=torch.float32, device=z.device)
        total = torch.zeros(1, *result.shape[1:], dtype=torch.float32, device=z.device)
        for top in rows:
            for left in columns:
                latent_window = (slice(top, top + size), slice(left, left + size))
                window = tuple(slice(part.start * factor, part.stop * factor) for part in latent_window)
                condition = vae.encode_condition(one_image[(..., *window)], one_mask[(..., *window)])
                decoded = vae.decode(z[(slice(index, index + 1), slice(None), *latent_window)], condition).sample.float()
                ramp = _ramp(decoded.shape[2:], (top, left), z.shape[2:], size, factor).to(z.device)
                total[(..., *window)] += decoded * ramp
                weights[(..., *window)] += ramp
        result[index] = (total / weights)[0].to(z.dtype)
    return result


def _starts(length: int, size: int) -> list[int]:
    """Latent offsets of tiles that cover `length`, evenly spread, each overlapping its neighbour by at least OVERLAP."""
    if length <= size:
        return [0]
    step = max(1, int(size * (1 - OVERLAP)))
    count = -(-(length - size) // step) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _ramp(shape: torch.Size, start: tuple[int, int], whole: torch.Size, size: int, factor: int) -> torch.Tensor:
    """Blending weights [1,1,H,W] of one tile: rising over the overlap at every side that has a neighbour."""
    sides = []
    for length, begin, total in zip(shape, start, whole):
        weight = torch.ones(length)
        overlap = max(1, int(size * OVERLAP) * factor)
        rise = (torch.arange(min(overlap, length)) + 1.0) / (overlap + 1)
        if begin > 0:
            weight[: len(rise)] *= rise
        if begin + size < total:
            weight[-len(rise) :] *= rise.flip(0)
        sides.append(weight)
    return (sides[0][:, None] * sides[1][None, :])[None, None]


def _check(vae: HarmonyVAE, z: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, tile: int, mode: str) -> None:
    factor = vae.spatial_factor
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}. Pass one of these.")
    if tile % factor or tile < 4 * factor:
        raise ValueError(f"tile must be a multiple of {factor} and at least {4 * factor}, got {tile}. Choose such a size, 512 say.")
    expected = [z.shape[2] * factor, z.shape[3] * factor]
    for name, tensor in (("image", image), ("mask", mask)):
        if list(tensor.shape[2:]) != expected:
            raise ValueError(f"{name} must be {expected[0]} x {expected[1]} (the latent's size times {factor}), got {list(tensor.shape[2:])}. Resize it first.")
        if tensor.shape[0] not in (1, z.shape[0]):
            raise ValueError(f"{name}'s batch must be 1 or the latent's {z.shape[0]}, got {tensor.shape[0]}. Repeat or select it.")
