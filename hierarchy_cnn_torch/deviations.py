"""The deviations by their ids: what the paper leaves open, and where we chose.

docs/deviations/hierarchy.md explains each; a test holds the comments in the code, that table and this list together.
"""

from __future__ import annotations

from collections.abc import Callable

from datasets import manifest
from hierarchy_cnn_torch.flags import Config
from reproduction.runtime import deviations


def _smaller_than_32(dataset: str) -> bool:
    """Whether a set's images may have less than 32 pixels a side; folders and the like may."""
    known = manifest.entries().get(dataset)
    return known is None or not known.shape or known.shape[0] < 32


# id -> whether it is active under a configuration of train.py; None: always.
TABLE: dict[str, Callable[[Config], bool] | None] = {
    "HCN-D01": lambda c: not c.dataset.startswith("imagenet"),
    "HCN-D02": lambda c: c.trunk == "alexnet32",
    "HCN-D03": lambda c: c.trunk == "alexnet",
    "HCN-D04": lambda c: c.arm not in ("A0", "A5"),
    "HCN-D05": None,
    "HCN-D06": lambda c: c.tree in ("derived", "random"),  # random: the derived tree with its classes permuted
    "HCN-D07": lambda c: c.image_size < 32 and _smaller_than_32(c.dataset),
    "HCN-D08": lambda c: bool(c.folds),
    "HCN-D09": None,
    "HCN-D10": None,
    "HCN-D11": lambda c: bool(c.amp or c.channels_last or c.compile),
}


def active(config: Config) -> list[str]:
    """Returns the ids by which a run departs from the paper, as far as the paper is known."""
    return deviations.active(config, TABLE)
