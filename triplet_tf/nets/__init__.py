"""The backbones. What is in `config` and `files` imports no framework; the rest imports TensorFlow at first use."""

from __future__ import annotations

import importlib
from typing import Any

from triplet_tf.config.networks import NETS, TABLE, Net

_LAZY = {
    "DIGESTS": "files",
    "backbone": "build",
    "check_started_from": "files",
    "checkpoint_digests": "files",
    "embedding_head": "build",
    "imagenet_checkpoint": "files",
    "restored_variables": "restore",
    "restore_imagenet": "restore",
    "weight_decay_terms": "restore",
}
__all__ = ["NETS", "TABLE", "Net", *_LAZY]  # noqa: PLE0604 - names resolved below


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
