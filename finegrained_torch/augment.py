"""The views of an image in the uncertainty pass: which exist, and how often each is drawn for which image.

A view is a fixed transformation; the coins of all images are drawn at once from one seeded generator, so that what
an image gets is a function of (seed, image) alone. Drawing n times among few views and averaging is the same as
computing each view once and weighing it by how often it was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

AUG_SETS = ("flips", "shifts", "picture")
P_HORIZONTAL, P_VERTICAL = 0.8, 0.3  # authors' models/Classifier.py
SHIFT = 1  # pixels


def shift(images: Tensor, down: int, right: int) -> Tensor:
    """Moves images by whole pixels; the border is repeated.

    Args:
      images: any dtype [B, C, H, W]. down, right: pixels, may be negative.
    """
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    return images[..., rows, :][..., columns]


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _like(images: Tensor, template: Tensor) -> Tensor:
    return images.to(template.dtype) if template.is_floating_point() else (images.clamp(0, 1) * 255).round().byte()


def grey_scale(images: Tensor) -> Tensor:
    """Luminance (0.299, 0.587, 0.114) in all three channels."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=_floats(images).dtype)
    grey = (_floats(images) * weights[:, None, None]).sum(1, keepdim=True)
    return _like(grey.expand_as(images), images)


def zoom(images: Tensor) -> Tensor:
    """The central three quarters, brought back to the full size."""
    height, width = images.shape[-2:]
    top, left = height // 8, width // 8
    part = _floats(images)[..., top : height - top, left : width - left]
    return _like(F.interpolate(part, (height, width), mode="bilinear", align_corners=False), images)


def hue(images: Tensor) -> Tensor:
    """Colours turned by 60 degrees about the grey axis."""
    cos, sin, third = 0.5, 3**0.5 / 2, 1 / 3
    diagonal, off = cos + third * (1 - cos), third * (1 - cos)
    swing = third**0.5 * sin
    rows = (
        (diagonal, off - swing, off + swing),
        (off + swing, diagonal, off - swing),
        (off - swing, off + swing, diagonal),
    )
    floats = _floats(images)
    matrix = torch.tensor(rows, device=floats.device, dtype=floats.dtype)
    return _like(torch.einsum("dc,bchw->bdhw", matrix, floats), images)


View = Callable[[Tensor], Tensor]

FLIPS: tuple[View, ...] = (
    lambda x: x,
    lambda x: x.flip(-1),
    lambda x: x.flip(-2),
    lambda x: x.flip((-2, -1)),
)
SHIFTS: tuple[View, ...] = (
    lambda x: x,
    lambda x: shift(x, SHIFT, 0),
    lambda x: shift(x, -SHIFT, 0),
    lambda x: shift(x, 0, SHIFT),
    lambda x: shift(x, 0, -SHIFT),
)
# Kinds shown in the authors' images/uncertainty.png; their order and strength are ours.
PICTURE: tuple[View, ...] = (
    lambda x: x,
    grey_scale,
    lambda x: x.flip(-1).rot90(1, (-2, -1)),
    zoom,
    hue,
)
VIEWS = {"flips": FLIPS, "shifts": SHIFTS, "picture": PICTURE}


def draw(aug_set: str, count: int, n_aug: int, generator: torch.Generator) -> Tensor:
    """Which view each augmentation of each image is.

    Args:
      aug_set: "flips": horizontal with p = 0.8, then vertical with p = 0.3, so identity .14, H .56, V .06, HV .24.
        "shifts" and "picture": one of the five, uniformly. count: N. n_aug: augmentations an image.
      generator: all draws come from it, N x n_aug at once.
    Returns:
      int64 [N, n_aug], positions in VIEWS[aug_set].
    Source: authors' models/Classifier.py (flips); the other two sets are ours. Deviation: FGL-D23.
    """
    if aug_set == "flips":
        coins = torch.rand(count, n_aug, 2, generator=generator)
        horizontal, vertical = coins[..., 0] < P_HORIZONTAL, coins[..., 1] < P_VERTICAL
        return horizontal.long() + 2 * vertical.long()
    return torch.randint(len(VIEWS[aug_set]), (count, n_aug), generator=generator)


def counts_of(views: Tensor, kinds: int) -> Tensor:
    """How often each view was drawn: int64 [N, n_aug] -> int64 [N, kinds], rows sum to n_aug."""
    counts = torch.zeros(len(views), kinds, dtype=torch.int64)
    return counts.scatter_add_(1, views, torch.ones_like(views))
