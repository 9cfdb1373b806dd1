"""The video-level network of the paper, with Keras's initialization."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subclass_torch.yt8m.data import RGB, WIDTH

NOISE = 0.03
L2 = 0.005


def unit_vectors(features: Tensor) -> Tensor:
    """rgb and audio each to length 1, then concatenated: float32 [B, 1152] of length sqrt(2); what k-means sees."""
    return torch.cat([F.normalize(features[:, :RGB], dim=1), F.normalize(features[:, RGB:], dim=1)], dim=1)


def network_input(features: Tensor, noise: Tensor | None = None) -> Tensor:
    """Normalized, noisy in training, normalized again as a whole.

    Args:
      features: float32 [B, 1152], raw.
      noise: float32 [B, 1152], standard normal, or None outside training.
    Returns:
      float32 [B, 1152] of length 1.
    Source: authors' yt8m_utils.py.
    """
    vectors = unit_vectors(features)
    return F.normalize(vectors if noise is None else vectors + NOISE * noise, dim=1)


class VideoNetwork(nn.Module):
    """Conv1D 64 x 3, ReLU, dropout 0.3, max-pool 2, dense; F = 36,864.

    Source: authors' subclasscnn.py. Deviations: SDN-Y02 (L2), SDN-Y03 (dropout).
    """

    def __init__(self, outputs: int, dropout: float = 0.3):
        """Args:
        outputs: S.
        dropout: 0 for the released code's inactive dropout.
        """
        super().__init__()
        self.conv = nn.Conv1d(1, 64, 3, padding=1)
        self.dropout = nn.Dropout(dropout)  # DEVIATION SDN-Y03: dropout acts in training
        self.penultim_layer = nn.Flatten()
        self.dense = nn.Linear(64 * (WIDTH // 2), outputs)
        for layer in (self.conv, self.dense):
            nn.init.xavier_uniform_(layer.weight)  # Keras's glorot_uniform
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps float [B, 1152] to logits [B, S]."""
        x = F.max_pool1d(self.dropout(F.relu(self.conv(inputs[:, None]))), 2)
        return self.dense(self.penultim_layer(x))

    def penalty(self) -> Tensor:
        """0.005 times the squared norm of both kernels, which the authors declare and never add."""
        return L2 * (self.conv.weight.square().sum() + self.dense.weight.square().sum())  # DEVIATION SDN-Y02: L2 added
