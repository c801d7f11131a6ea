"""The harmony classifier's network: a frozen ResNet-50 with a linear probe, or a small network of our own (SPEC §5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..common.masks import binarize_mask, check_image, check_image_and_mask, check_range

RESNET50, SMALL = "resnet50", "small"
BACKBONES = (RESNET50, SMALL)
CLASSES = 2
UNHARMONIOUS = 1  # the class of composites; 0 is that of real images
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of 0..1
INPUT_SIZE = 256
SMALL_WIDTHS = (16, 32, 64, 128, 128)
CROP_MARGIN = 0.5
LEAST_CROP = 0.25  # of the shorter side: a smaller cut would show too little of what surrounds the foreground


class HarmonyClassifier(nn.Module):
    """Tells composites from real images. Logits [B, 2]; class 1 is unharmonious, that is a composite.

    backbone: "resnet50" (torchvision's, frozen) or "small" (trained throughout). input_size: side that it sees the image at.
    crop: see the masked region's crop (`masked_box`, with `crop_margin`) in place of the whole image, which is the paper's form.
    mask_channel: see the binarised mask too (small backbone only). widths: of the small backbone's levels, each half as large.
    Raises: ValueError for fields that describe no classifier. Source: SPEC §5.
    """

    def __init__(
        self, backbone: str = RESNET50, input_size: int = INPUT_SIZE, crop: bool = False, mask_channel: bool = False,
        crop_margin: float = CROP_MARGIN, widths: tuple[int, ...] = SMALL_WIDTHS,
    ):  # fmt: skip
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}. Choose one of these.")
        if backbone == RESNET50 and mask_channel:
            raise ValueError(
                "mask_channel must be off for the backbone resnet50, which takes three channels, got True. Use crop, or the small backbone."
            )
        if not 32 <= input_size <= 4096:
            raise ValueError(f"input_size must lie in [32, 4096], got {input_size}. Choose {INPUT_SIZE}, say.")
        if not 0 <= crop_margin <= 8:
            raise ValueError(f"crop_margin must lie in [0, 8], got {crop_margin}. Choose {CROP_MARGIN}, say.")
        self.config: dict[str, Any] = {"backbone": backbone, "input_size": input_size, "crop": crop, "mask_channel": mask_channel}
        if crop:
            self.config["crop_margin"] = crop_margin
        if backbone == SMALL:
            self.config["widths"] = list(widths)
            self.backbone: nn.Module = SmallBackbone(tuple(widths), mask_channel)
            self.probe: nn.Module = nn.Sequential(nn.Linear(self.backbone.features, widths[-1]), nn.SiLU(), nn.Linear(widths[-1], CLASSES))
        else:
            self.backbone = _resnet50()
            self.probe = nn.Linear(2048, CLASSES)

    @property
    def needs_mask(self) -> bool:
        """Whether a mask must come with the images."""
        return self.config["crop"] or self.config["mask_channel"]

    def train(self, mode: bool = True) -> HarmonyClassifier:
        """As of any module, but ResNet-50 keeps ImageNet's batch statistics."""
        super().train(mode)
        if self.config["backbone"] == RESNET50:
            self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, 2], class 1 = unharmonious.

        images: [B, 3, H, W], floating, -1..1, any size. mask: [B or 1, 1, H, W], 0..1, where `crop` or `mask_channel` need it;
        else it does nothing.
        Raises: ValueError for another shape or range, or where the mask is missing.
        """
        return self.probe(self.features(images, mask))

    def features(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What the probe takes: [B, F], for ResNet-50 its 2048 pooled features. Arguments as of `forward`."""
        return self.backbone(self.preprocess(images, mask))

    def preprocess(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[B, 3 or 4, S, S] as the backbone takes it: cut where `crop` is on, bilinear with antialias as torchvision's own, then
        ImageNet's mean and deviation; the mask last, in -1..1. Arguments as of `forward`."""
        size = self.config["input_size"]
        if not self.needs_mask:
            check_image(images, "images")
            parts = _resized(images.float(), size)
        else:
            if mask is None:
                raise ValueError("mask must be given to a classifier of masked regions, got None. Pass the foreground's mask.")
            images, mask = check_image_and_mask(images, mask, "images")
            mask = binarize_mask(mask)
            parts = torch.cat([images.float(), mask], dim=1)
            if self.config["crop"]:
                boxes = [masked_box(item[0] > 0, self.config["crop_margin"]) for item in mask]
                cuts = [item[None, :, top:bottom, left:right] for item, (left, top, right, bottom) in zip(parts, boxes)]
                parts = torch.cat([_resized(cut, size) for cut in cuts])
            else:
                parts = _resized(parts, size)
        check_range(images, "images")
        mean, deviation = (parts.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        prepared = ((parts[:, :3] + 1) / 2 - mean) / deviation
        if self.config["mask_channel"]:
            prepared = torch.cat([prepared, parts[:, 3:] * 2 - 1], dim=1)
        return prepared.to(next(self.parameters()).dtype)


class SmallBackbone(nn.Module):
    """A small residual network, every level half as large as the one before, whose features are the means of each level.

    Group norm, which keeps no statistics: averaged weights and resumed runs need nothing else. With a mask, means are taken over its
    inside, its outside, and both sides of its border, so that they can be compared; without one, mean and maximum.
    """

    def __init__(self, widths: tuple[int, ...], mask_channel: bool):
        super().__init__()
        if not widths or any(width < 8 or width % 8 for width in widths):
            raise ValueError(f"widths must be multiples of 8, got {widths}. Choose {SMALL_WIDTHS}, say.")
        self.mask_channel = mask_channel
        before = (4 if mask_channel else 3, *widths[:-1])
        self.levels = nn.ModuleList(_Level(first, width) for first, width in zip(before, widths))
        self.features = (4 if mask_channel else 2) * sum(widths)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: [B, 3 or 4, S, S]. Returns: [B, features]."""
        inside = (images[:, 3:] + 1) / 2 if self.mask_channel else None
        values, pooled = images.to(memory_format=torch.channels_last), []
        for level in self.levels:
            values = level(values)
            if inside is None:
                pooled += [values.mean(dim=(2, 3)), values.amax(dim=(2, 3))]
            else:
                pooled.append(_means(values, _regions(F.adaptive_avg_pool2d(inside, values.shape[2:]))))
        return torch.cat(pooled, dim=1)


class _Level(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = F.silu(self.norm(self.down(values)))
        change = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(values)))))
        return F.silu(values + change)


def masked_box(mask: torch.Tensor, margin: float = CROP_MARGIN) -> tuple[int, int, int, int]:
    """The crop (left, top, right, bottom) that shows a masked region and what surrounds it.

    mask: [H, W] bool. A square about the foreground's bounding box, `margin` of the box's longer side wider to each side and at
    least LEAST_CROP of the image's shorter one, moved into the image; a side that the image has not got is cut off. The whole
    image for an empty mask.
    """
    height, width = mask.shape
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return 0, 0, width, height
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    side = max(round(max(bottom - top, right - left) * (1 + 2 * margin)), round(LEAST_CROP * min(height, width)), 1)
    (left, right), (top, bottom) = _span(left, right, side, width), _span(top, bottom, side, height)
    return left, top, right, bottom


def _span(first: int, last: int, side: int, limit: int) -> tuple[int, int]:
    side = min(side, limit)
    start = min(max((first + last - side) // 2, 0), limit - side)
    return start, start + side


def _regions(inside: torch.Tensor) -> torch.Tensor:
    """The inside [B, 1, h, w] in 0..1, the outside, and a pixel to either side of the border: [B, 4, h, w]."""
    outside = 1 - inside
    near_outside, near_inside = (F.max_pool2d(side, 3, stride=1, padding=1) for side in (outside, inside))
    return torch.cat([inside, outside, inside * near_outside, outside * near_inside], dim=1)


def _means(values: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Mean of [B, C, h, w] over each of the regions [B, R, h, w]: [B, R * C]; 0 over one that is empty."""
    sums = torch.einsum("bchw,brhw->brc", values, regions.to(values.dtype))
    return (sums / regions.sum(dim=(2, 3))[..., None].clamp(min=1e-4)).flatten(1)


def _resized(values: torch.Tensor, size: int) -> torch.Tensor:
    if values.shape[2:] == (size, size):
        return values
    return F.interpolate(values, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50

    backbone = resnet50(weights=None)
    backbone.fc = nn.Identity()
    return backbone.requires_grad_(False).eval()
