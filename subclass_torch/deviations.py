"""Ids of the deviations from the released code, and under which flags each is active.

docs/deviations/subclass.md explains each; a test holds the comments in the code, that table and this list together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from subclass_torch.flags import Config

# id -> whether it is active under a configuration of notebook.py; None: always.
IMAGES: dict[str, Callable[[Config], bool] | None] = {
    "SDN-D01": lambda c: not c.always_subclass,
    "SDN-D02": lambda c: not c.data_augmentation,
    "SDN-D03": lambda c: c.learning_rate != 0.1,
    "SDN-D04": lambda c: c.stage1_lr == "scheduled",
    "SDN-D05": lambda c: c.neglect_weight == "batch",
    "SDN-D06": lambda c: c.neglect_total == "mean",
    "SDN-D07": lambda c: c.neglect_total == "mean",
    "SDN-D08": None,
    "SDN-D09": None,
    "SDN-D10": lambda c: c.mixing == "wide",
    "SDN-D11": None,
    "SDN-D12": lambda c: c.kmeans_view == "plain",
    **{f"SDN-D{n}": None for n in range(13, 28)},
    "SDN-D28": lambda c: bool(c.amp or c.channels_last or c.compile),
}

# The same for notebook_yt8m.py.
VIDEOS: dict[str, Callable[[Any], bool] | None] = {
    "SDN-Y01": None,
    "SDN-Y02": lambda c: c.l2 == "declared",
    "SDN-Y03": lambda c: c.dropout == "active",
    "SDN-Y04": lambda c: c.label_loss == "subclass",
    **{f"SDN-Y{n:02d}": None for n in range(5, 11)},
    "SDN-Y11": lambda c: bool(c.amp or c.compile),
}
