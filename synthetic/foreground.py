"""The foreground's own colour where an edge is soft: what a cut-out's fringe looks like without the background that it was cut out of.

A soft pixel is a mixture, image = alpha F + (1 - alpha) B. Both colours are estimated together: each is to be like its neighbours', the
more so where alpha changes, and the mixture is to be the image. Solved from coarse to fine, a few sweeps on each level.
Source: Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..common.masks import check_image_and_mask

SMOOTHNESS = 1e-5  # how much neighbours are to be alike where alpha does not change
GRADIENT = 1.0  # and how much more where it does
NEIGHBOURS = 8  # pixels beside soft edges that show either colour
SMALL, SMALL_SWEEPS, SWEEPS = 256, 10, 4  # levels up to this side get more sweeps


def estimate_foreground(image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The foreground's colour everywhere: the image's own where alpha is 1, unmixed where it is soft, spread smoothly where it is 0.

    image: [B, 3, H, W], floating, -1..1. alpha: [B or 1, 1, H, W], 0..1. Where everything that is wholly transparent has one colour, the old
    background was erased there, and only what soft pixels show of it counts.
    Returns: [B, 3, H, W] float32, -1..1, on the image's device. Raises: ValueError for other shapes or ranges.
    """
    image, alpha = check_image_and_mask(image.float(), alpha, "image")
    return torch.cat([_of_one(one[None], weight[None]) for one, weight in zip(image, alpha, strict=True)])


def own_colours(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The image with the foreground's own colour at the mask's soft edges, in place of its mixture with the background.

    What relights the foreground would relight the background that shines through there as well. Harmonize this in the image's place, and
    give the change back with `mixed_again`. image: [B, 3, H, W], floating, -1..1. mask: [B or 1, 1, H, W], 0..1.
    Returns: [B, 3, H, W], the image's dtype; the image itself where no edge is soft. Raises: ValueError for other shapes or ranges.
    """
    image, mask = check_image_and_mask(image, mask, "image")
    soft = (mask > 0) & (mask < 1)
    if not soft.any():
        return image
    own = image.clone()
    for index in soft.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
        rows, columns = (soft[index, 0].any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        place = tuple(slice(max(0, int(found[0]) - NEIGHBOURS), int(found[-1]) + 1 + NEIGHBOURS) for found in (rows, columns))
        part = (slice(index, index + 1), slice(None), *place)
        own[part] = torch.where(soft[part], estimate_foreground(image[part], mask[part]).to(own.dtype), own[part])
    return own


def mixed_again(image: torch.Tensor, own: torch.Tensor, relit: torch.Tensor) -> torch.Tensor:
    """What became of `own_colours(image, mask)`, as a change of the image: of an edge's mixture only the foreground's share changes.

    relit: `own` harmonized, with the background pasted by the mask. All [B, 3, H, W]; several relit of one image too. Returns: as relit; beyond
    the range by a little where the light is strong.
    """
    return torch.where(own == image, relit, image + (relit - own))


def _of_one(image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    outside = image.movedim(1, -1)[alpha[:, 0] == 0]
    erased = len(outside) > 0 and bool((outside == outside[0]).all())
    known = (alpha > 0).float() if erased else torch.ones_like(alpha)
    # a channel at a time: the whole of a large photograph would take three times the memory
    solved = torch.cat([_solve(image[:, channel : channel + 1], alpha, known) for channel in range(3)], dim=1)
    return torch.where(alpha >= 1, image, solved.clamp_(-1, 1))


def _solve(image: torch.Tensor, alpha: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """[1, 1, H, W] -> F of it. known: 1 where the image is a mixture, 0 where it says nothing."""
    size = tuple(image.shape[-2:])
    levels = math.ceil(math.log2(max(*size, 2)))
    colours = [
        ((part * known * image).sum() / (part * known).sum().clamp_min(1e-6)).reshape(1, 1, 1, 1) for part in (alpha, 1 - alpha)
    ]
    for level in range(levels + 1):
        now = tuple(max(1, round(side ** (level / levels))) for side in size)
        shown, weight, trust = (F.interpolate(part, now, mode="nearest-exact") for part in (image, alpha, known))
        colours = [F.interpolate(colour, now, mode="nearest-exact") for colour in colours]
        for _ in range(SMALL_SWEEPS if max(now) <= SMALL else SWEEPS):
            _sweep(colours, shown, weight, trust)
    return colours[0]


def _sweep(colours: list[torch.Tensor], image: torch.Tensor, alpha: torch.Tensor, known: torch.Tensor) -> None:
    """Each pixel's F and B (in place) from its four neighbours' and from what it shows: the least squares of both, in closed form."""
    sums, total = [torch.zeros_like(colour) for colour in colours], torch.zeros_like(alpha)
    for axis in (2, 3):
        pairs = alpha.shape[axis] - 1
        likeness = SMOOTHNESS + GRADIENT * (alpha.narrow(axis, 1, pairs) - alpha.narrow(axis, 0, pairs)).abs()
        for here, there in ((0, 1), (1, 0)):
            total.narrow(axis, here, pairs).add_(likeness)
            for summed, colour in zip(sums, colours, strict=True):
                summed.narrow(axis, here, pairs).addcmul_(likeness, colour.narrow(axis, there, pairs))
    if not total.any():  # a single pixel
        sums, total = list(colours), torch.ones_like(alpha)
    front, back = (summed / total for summed in sums)
    rest = known * (image - alpha * front - (1 - alpha) * back) / (total + alpha**2 + (1 - alpha) ** 2)
    colours[:] = [front + alpha * rest, back + (1 - alpha) * rest]
