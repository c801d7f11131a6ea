"""Transfer Harmony: a model's result at its working size, as a smooth colour transform of the original at full size (DESIGN.md, data flow 5).

A change of light multiplies linear light. So the transform is one gain for each channel and one contrast, fitted in linear light by
ridge regression toward no change, times a slowly varying brightness, which is taken over as far as it stands out of the fit's noise.
Black stays black, white is approached softly, and what is finer than the fit (grain, text, faces) is the original's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..common.images import blur, resize_image, resize_mask
from ..common.masks import THRESHOLD, binarize_mask, check_image, check_image_and_mask, check_range
from .calibration import Calibration

DARK = 1e-3  # linear light, about 3 of 255: below it contrast no longer changes the gain
LOG_GAIN, CONTRAST = 0.5, 0.06  # standard deviations of what light does, before any evidence
INDEPENDENT = 8.0  # independent errors in a result: neighbouring pixels err alike, so more pixels are not more evidence
FIT_STEPS = 4
EDGE = 2  # pixels at the mask's border whose colours a decoder mixes
OUTLIER = 3.0  # standard deviations from which on an error counts less
CLIPPED = 254.5 / 255
GREY = 3 / 255  # from -1..1: channels that differ no more, anywhere in an image, are a photograph without colour
FIELD_CELLS = 32  # of the longer side
FIELD_WIDTH = 0.4  # of the foreground's radius
FIELD_PRIOR, FIELD_NOISE = 0.2, 0.03  # ridge, and the log brightness below which a field is taken for noise
SHOULDER = 0.8  # linear light from which on a gain approaches white
STRIP_PIXELS = 2**20
LARGEST_STRENGTH = 2.0


class ColourTransform(NamedTuple):
    """For each image a smooth change of colour: y = x exp(s (log_gains + contrast (log(x + DARK) - pivot) + field)), x in linear light.

    log_gains: [B, 3]. contrast, pivot: [B, 1]. field: [B, 1, h, w], spread over the image bilinearly. strength s: [B, 1]. All float32.
    """

    log_gains: torch.Tensor
    contrast: torch.Tensor
    pivot: torch.Tensor
    field: torch.Tensor
    strength: torch.Tensor

    def scaled(self, strength: float | torch.Tensor) -> ColourTransform:
        """The same change more or less strongly: a number, or one for each image [B]; 0 changes nothing."""
        strength = torch.as_tensor(strength, dtype=torch.float32, device=self.strength.device).reshape(-1, 1)
        return self._replace(strength=self.strength * strength)


def fit_transform(image: torch.Tensor, result: torch.Tensor, mask: torch.Tensor) -> ColourTransform:
    """The colour transform that takes the foreground of `image` to `result`, as far as light explains it.

    image: [B, 3, h, w], floating, -1..1, the composite at working size. result: as image, or several samples of it [S, B, 3, h, w], whose
    mean counts. mask: [B or 1, 1, h, w], 0..1. An empty foreground gives no change.
    Raises: ValueError for other shapes or ranges. Source: DESIGN.md, data flow 5.
    """
    result = result.float().mean(0) if result.ndim == 5 else result
    image, mask = check_image_and_mask(image, mask)
    check_image(result, "result")
    check_range(result, "result")
    if result.shape != image.shape:
        raise ValueError(f"result must have the shape of image {list(image.shape)}, got {list(result.shape)}. Pass both at working size.")
    shown, wanted = (values.detach().float().clamp(-1, 1) / 2 + 0.5 for values in (image, result.to(image.device)))
    x, target = to_linear(shown), to_linear(wanted)
    usable = (torch.maximum(shown, wanted) < CLIPPED).all(dim=1, keepdim=True)
    weight = _inner(mask)
    weight = weight * usable if (weight * usable).sum() > 0.1 * weight.sum() else weight
    total = weight.sum(dim=(2, 3), keepdim=True)
    weight = weight / total.clamp_min(1e-12)
    logs = (x + DARK).log()
    pivot = (weight * logs).sum(dim=(1, 2, 3)) / 3
    design = _design(logs, pivot)
    precision = torch.diag(torch.tensor([LOG_GAIN**-2] * 3 + [CONTRAST**-2], device=x.device))
    values = x.new_zeros(x.shape[0], 4)
    for _ in range(FIT_STEPS):  # Gauss-Newton
        y = x * torch.einsum("bchwp,bp->bchw", design, values).clamp(-4, 4).exp()
        error = target - y
        squared = error.square().mean(dim=1, keepdim=True)
        noise = (weight * squared).sum(dim=(1, 2, 3)).clamp_min(1e-7)
        robust = weight / (1 + squared / (OUTLIER**2 * noise[:, None, None, None]))
        share = robust * (INDEPENDENT / noise)[:, None, None, None]
        slopes = y[..., None] * design
        left = torch.einsum("bhw,bchwp,bchwq->bpq", share[:, 0], slopes, slopes) + precision
        right = torch.einsum("bhw,bchwp,bchw->bp", share[:, 0], slopes, error) - values @ precision
        values = values + torch.linalg.solve(left, right)
    y = x * torch.einsum("bchwp,bp->bchw", design, values).clamp(-4, 4).exp()
    field = _brightness_field(y, target - y, weight)
    return ColourTransform(values[:, :3], values[:, 3:], pivot[:, None], field, x.new_ones(x.shape[0], 1))


def apply_transform(
    transform: ColourTransform, original: torch.Tensor, mask: torch.Tensor, *, paste_background: bool = True
) -> torch.Tensor:
    """The original under a transform, at its own size, strip by strip: beside the result it takes about 150 MB, whatever the size.

    original: [B, 3, H, W], floating, -1..1. mask: [B or 1, 1, H, W], 0..1. paste_background: blend by the mask over the original, whose
    pixels where the mask is 0 come back bit for bit; False changes the whole image.
    Returns: [B, 3, H, W], the original's dtype and device, -1..1. Raises: ValueError for other shapes or ranges.
    """
    original, mask = check_image_and_mask(original, mask, "original")
    out = original.clone()
    height, width = original.shape[-2:]
    rows = max(1, STRIP_PIXELS // width)
    for index in range(original.shape[0]):
        one = ColourTransform(*(part[index : index + 1].to(original.device) for part in transform))
        if not one.strength.any():
            continue
        for top in range(0, height, rows):
            strip = slice(top, min(top + rows, height))
            weight = mask[index : index + 1, :, strip]
            left, right = _columns(weight) if paste_background else (0, width)
            if left == right:
                continue
            columns = slice(left, right)
            before = original[index : index + 1, :, strip, columns]
            after = _relight(one, before.float(), _field_at(one.field, strip, columns, (height, width)))
            if paste_background:
                weight = weight[..., columns]
                after = torch.where(weight == 0, before, torch.lerp(before.float(), after, weight).to(before.dtype))
            out[index : index + 1, :, strip, columns] = after.to(out.dtype)
    return out


def transfer_light(
    original: torch.Tensor,
    mask: torch.Tensor,
    result: torch.Tensor,
    *,
    calibration: Calibration | None = None,
    strength: float = 1.0,
    paste_background: bool = True,
) -> torch.Tensor:
    """The original under the light of a model's result: fitted at the result's size, calibrated, applied at the original's own.

    original: [B, 3, H, W], floating, -1..1. mask: [B or 1, 1, H, W], 0..1. result: [B, 3, h, w], or samples of it [S, B, 3, h, w], -1..1.
    calibration: how far changes of each size are trusted; None trusts all. strength: multiplies the change. Returns: as `apply_transform`.
    Raises: ValueError for other shapes or ranges. Source: DESIGN.md, data flow 5.
    """
    check_strength(strength)
    return apply_transform(found_light(original, mask, result, calibration).scaled(strength), original, mask, paste_background=paste_background)


def check_strength(strength: float) -> None:
    """Raises: ValueError for a strength that is no number in 0..2."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= LARGEST_STRENGTH:
        raise ValueError(f"strength must be a number in 0..{LARGEST_STRENGTH:g}, got {strength!r}. 1 is the change as predicted.")


def found_light(original: torch.Tensor, mask: torch.Tensor, result: torch.Tensor, calibration: Calibration | None = None) -> ColourTransform:
    """The light of a model's result, fitted at its size and calibrated. Arguments and errors as `transfer_light`.

    An original without colour keeps it so: of its result the brightness counts alone.
    """
    size = result.shape[-2:]
    image, small = resize_image(original.to(result.device), size), binarize_mask(resize_mask(mask.to(result.device), size))
    grey = (image.amax(dim=1) - image.amin(dim=1)).amax(dim=(1, 2)) <= GREY
    result = torch.where(grey[:, None, None, None], result.mean(dim=-3, keepdim=True), result)
    transform = fit_transform(image, result, small)
    if calibration is None:
        return transform
    changed = apply_transform(transform, image, small, paste_background=False)
    return transform.scaled(calibration.shrinkage(foreground_change(image, changed, small)))


def foreground_change(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square of a change over the foreground, counted 0..255, of each image: [B] float32.

    before, after: [B, 3, H, W], -1..1. mask: [B or 1, 1, H, W], 0..1.
    """
    weight = (mask >= THRESHOLD).float()
    squared = (after.float() - before.float()).square().mean(dim=1, keepdim=True) * weight
    return (squared.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp_min(1)).sqrt() * 127.5


def to_linear(values: torch.Tensor) -> torch.Tensor:
    """sRGB in 0..1 to linear light. Source: IEC 61966-2-1."""
    return torch.where(values <= 0.04045, values / 12.92, ((values.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def from_linear(values: torch.Tensor) -> torch.Tensor:
    """Linear light in 0..1 to sRGB. Source: IEC 61966-2-1."""
    return torch.where(values <= 0.0031308, values * 12.92, 1.055 * values.clamp_min(1e-6) ** (1 / 2.4) - 0.055)


def _design(logs: torch.Tensor, pivot: torch.Tensor) -> torch.Tensor:
    """d log y / d (log gains, contrast): [B, 3, h, w, 4]."""
    contrast = (logs - pivot[:, None, None, None])[..., None]
    gains = torch.eye(3, device=logs.device)[None, :, None, None].expand(*logs.shape, 3)
    return torch.cat([gains, contrast], dim=-1)


def _inner(mask: torch.Tensor) -> torch.Tensor:
    """The mask without its border, or whole where little would be left of it."""
    hard = (mask >= THRESHOLD).float()
    size = 2 * EDGE + 1
    inner = 1 - F.max_pool2d(F.pad(1 - hard, (EDGE,) * 4, mode="replicate"), size, stride=1)
    enough = inner.sum(dim=(1, 2, 3), keepdim=True) >= 0.25 * hard.sum(dim=(1, 2, 3), keepdim=True)
    return torch.where(enough, inner, hard)


def _brightness_field(y: torch.Tensor, error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The log brightness that the global fit leaves, smooth and shrunk toward none: [B, 1, cells, cells]."""
    height, width = y.shape[-2:]
    cells = [max(1, round(FIELD_CELLS * length / max(height, width))) for length in (height, width)]
    numerator, denominator, area = (
        F.adaptive_avg_pool2d((weight * values).sum(dim=1, keepdim=True), cells) for values in (y * error, y * y, torch.ones_like(y[:, :1]))
    )
    fields = []
    for index in range(y.shape[0]):
        share = area[index, 0] / area[index].sum().clamp_min(1e-12)
        radius = sum(_variance(share.sum(dim=1 - axis)) for axis in (0, 1)).sqrt()
        reach = max(1.0, FIELD_WIDTH * radius.item())
        top, bottom, inside = (blur(values[index : index + 1], reach) for values in (numerator, denominator, area))
        # a local gain by ridge regression; the ridge is in proportion to what a place within the foreground has of evidence
        evidence = inside.amax() * denominator[index].sum() / area[index].sum().clamp_min(1e-12)
        field = top / (bottom + FIELD_PRIOR * evidence).clamp_min(1e-12)
        field = field - (share * field).sum()
        power = (share * field.square()).sum()
        fields.append(field * (1 - FIELD_NOISE**2 / power.clamp_min(1e-12)).clamp_min(0))
    return torch.cat(fields)


def _variance(share: torch.Tensor) -> torch.Tensor:
    places = torch.arange(len(share), device=share.device, dtype=share.dtype)
    mean = (share * places).sum()
    return (share * (places - mean).square()).sum()


def _columns(weight: torch.Tensor) -> tuple[int, int]:
    """The first and one past the last column with any foreground; (0, 0) without."""
    found = weight.amax(dim=(0, 1, 2)).nonzero()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def _field_at(field: torch.Tensor, rows: slice, columns: slice, size: tuple[int, int]) -> torch.Tensor:
    """The field's values at some of the pixels of an image of this size, bilinear as F.interpolate's."""
    places = [
        ((torch.arange(part.start, part.stop, device=field.device) + 0.5) * 2 / length - 1) for part, length in ((rows, size[0]), (columns, size[1]))
    ]
    y, x = torch.meshgrid(*places, indexing="ij")
    return F.grid_sample(field, torch.stack([x, y], dim=-1)[None], mode="bilinear", padding_mode="border", align_corners=False)


def _relight(transform: ColourTransform, values: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """[1, 3, h, w] in -1..1 under the transform; field: [1, 1, h, w]."""
    gains, contrast, pivot, strength = (
        part[..., None, None] for part in (transform.log_gains, transform.contrast, transform.pivot, transform.strength)
    )
    x = to_linear((values.clamp(-1, 1) + 1) / 2)
    change = (strength * (gains + contrast * ((x + DARK).log() - pivot) + field)).clamp(-4, 4)
    y = x * change.exp()
    knee = x.clamp_min(SHOULDER)
    room = (1 - knee).clamp_min(1e-6)
    y = torch.where(y > knee, knee + room * torch.tanh((y - knee) / room), y)
    return (from_linear(y) * 2 - 1).clamp(-1, 1)
