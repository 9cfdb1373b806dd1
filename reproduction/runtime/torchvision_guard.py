"""torchvision next to a torch that its compiled part does not fit."""

from __future__ import annotations

import sys
from typing import Any

import torch

_libraries: list[Any] = []  # operator names declared for torchvision live as long as the process


def torchvision_ready() -> str:
    """Imports torchvision, also with a CPU torch that does not fit its compiled part; returns its version."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
        import torchvision
    return str(torchvision.__version__)
