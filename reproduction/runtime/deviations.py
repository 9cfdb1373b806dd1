"""Which deviations from a paper or its released code are active under a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Config = TypeVar("Config")


def active(config: Config, table: Mapping[str, Callable[[Config], bool] | None]) -> list[str]:
    """Returns the sorted ids of the active deviations.

    Args:
      config: resolved flags, in the form that the tests of `table` expect.
      table: deviation id -> test whether it is active under `config`; None: always active.
    """
    return sorted(name for name, test in table.items() if test is None or test(config))
