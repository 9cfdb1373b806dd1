"""The ids of the ledger: where we leave the released code, and the flag that goes back to it.

docs/deviations/finegrained.md explains each; a test holds the comments in the code, that table and this list together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]

# id -> whether it is active under a configuration; None: always.
ALL: dict[str, Callable[[Config], bool] | None] = {
    **{f"FGL-D{n:02d}": None for n in range(1, 33)},
    "FGL-D02": lambda c: c["dataset"] in ("mnist", "mnist5k"),
    "FGL-D04": lambda c: c["split"] == "fixed",
    "FGL-D26": lambda c: not c["freeze"],
    "FGL-D28": lambda c: c["dataset"] == "pathmnist",
}


def active(config: Config) -> list[str]:
    """The ids by which a run differs from the released code."""
    return sorted(name for name, test in ALL.items() if test is None or test(config))
