"""A pair of things to measure, interleaved, with both absolute figures and the spread of their ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

REPEATS = 5


@dataclass(frozen=True)
class Pair:
    """Repeated measurements of a baseline and of ours, in turn, in one process.

    Attributes:
      name: what is compared.
      unit: of the values; "images/s" and the like are better when larger, "s" and "MiB" when smaller.
      baseline, ours: one value for each repeat.
    """

    name: str
    unit: str
    baseline: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times better ours is, repeat by repeat."""
        pairs = zip(self.baseline, self.ours, strict=True)
        return [o / b if self.unit.endswith("/s") else b / o for b, o in pairs]

    def summary(self) -> dict[str, Any]:
        """One entry of runs/bench/bench.json."""
        ratios = self.ratios
        return {
            **asdict(self),
            "baseline": statistics.median(self.baseline),
            "ours": statistics.median(self.ours),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "n": len(ratios),
        }


def interleave(
    name: str, unit: str, baseline: Callable[[], float], ours: Callable[[], float], repeats: int = REPEATS
) -> Pair:
    """Measures both in turn after one warm-up each; the callables return a value in `unit`."""
    baseline(), ours()
    values = [(baseline(), ours()) for _ in range(repeats)]
    return Pair(name, unit, [b for b, _ in values], [o for _, o in values])
