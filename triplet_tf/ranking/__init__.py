"""The ranking losses as functions of labels and embeddings; each imports TensorFlow at its first use."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "CENTER_LAMBDA": "center",
    "adaptive_weight_loss": "hard",
    "batch_hard_loss": "hard",
    "batch_statistics": "distances",
    "center_loss": "center",
    "center_update": "center",
    "new_centers": "center",
    "semi_hard_loss": "semi_hard",
    "squared_distances": "distances",
}
__all__ = list(_LAZY)  # noqa: PLE0605 - names resolved below


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
