"""Layers whose gradient torch has in no fixed order on a GPU, so that `--deterministic` would end with torch's error.

Everywhere else they are torch's own layers, to the last bit. See `torch.use_deterministic_algorithms`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_refused(x: Tensor) -> bool:
    """Whether torch refuses the gradient of these layers at `x`: on a GPU, in deterministic mode."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


class AdaptiveMean(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling to a square map; in deterministic mode a mean for each row and column of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [B, C, H, W] to [B, C, size, size]."""
        if not is_refused(x):
            return super().forward(x)
        size = int(self.output_size)  # type: ignore[arg-type]
        for dim in (2, 3):
            length = x.shape[dim]
            windows = [(at * length // size, -(-(at + 1) * length // size)) for at in range(size)]
            x = torch.stack([x.narrow(dim, first, end - first).mean(dim) for first, end in windows], dim)
        return x


class GlobalMax(nn.AdaptiveMaxPool2d):
    """Largest value of each map; use it with size 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [B, C, H, W] to [B, C, 1, 1]."""
        return x.flatten(2).max(2).values[..., None, None] if is_refused(x) else super().forward(x)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalisation across channels; in deterministic mode the mean is a sum of shifted maps."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [B, C, H, W] to the same shape."""
        if not is_refused(x):
            return super().forward(x)
        squares = F.pad(x.square(), (0, 0, 0, 0, self.size // 2, (self.size - 1) // 2))
        mean = torch.stack([squares.narrow(1, at, x.shape[1]) for at in range(self.size)]).sum(0) / self.size
        return x / (self.k + self.alpha * mean) ** self.beta
