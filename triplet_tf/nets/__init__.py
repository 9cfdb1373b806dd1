"""The backbones. `NETS` and `TABLE` import no framework; everything else imports TensorFlow at first use."""

from __future__ import annotations

import importlib
from typing import Any

from triplet_tf.config.networks import NETS, TABLE, Net

_LAZY = {
    "DIGESTS": "restore",
    "backbone": "build",
    "checkpoint_digests": "restore",
    "embedding_head": "build",
    "imagenet_checkpoint": "restore",
    "restored_variables": "restore",
    "restore_imagenet": "restore",
    "weight_decay_terms": "restore",
}
__all__ = ["NETS", "TABLE", "Net", *_LAZY]  # noqa: PLE0604 - names resolved below


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
