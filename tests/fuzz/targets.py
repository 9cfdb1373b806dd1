"""The table of parsers: what is put in, who reads it, which errors are documented."""

from __future__ import annotations

from functools import cache

from tests.fuzz import data_targets, end_targets, framework_targets, run_targets
from tests.fuzz.engine import Target


@cache
def table() -> dict[str, Target]:
    """Every target by name."""
    lists = (data_targets, run_targets, end_targets, framework_targets)
    every = [target for module in lists for target in module.targets()]
    assert len({target.name for target in every}) == len(every)
    return {target.name: target for target in every}
