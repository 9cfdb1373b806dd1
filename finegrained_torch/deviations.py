"""The deviations from the released code, and the configurations under which each is active.

docs/deviations/finegrained.md explains each; a test holds the comments in the code, that table and this list together.
"""

from __future__ import annotations

from collections.abc import Callable

from finegrained_torch.flags import Config
from reproduction.runtime import deviations

# id -> whether it is active under a configuration; None: always.
ALL: dict[str, Callable[[Config], bool] | None] = {
    **{f"FGL-D{n:02d}": None for n in range(1, 33)},
    "FGL-D02": lambda c: c.dataset in ("mnist", "mnist5k"),
    "FGL-D04": lambda c: c.split == "fixed",
    "FGL-D26": lambda c: c.freeze,
    "FGL-D27": lambda c: c.head != ["plain"],
    "FGL-D28": lambda c: c.dataset == "pathmnist",
    "FGL-D33": lambda c: c.precision != "32-true" or c.channels_last or c.compile,
    "FGL-D34": lambda c: c.dataset == "pathmnist" and c.use_pseudo,
}


def active(config: Config) -> list[str]:
    """Returns the ids by which a run differs from the released code."""
    return deviations.active(config, ALL)
