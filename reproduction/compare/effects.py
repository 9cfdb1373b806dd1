"""An effect over seeds, such as the accuracy of a method minus that of its baseline, and its interval.

Seeds and test images both vary. With d_s the effect of seed s, d_si in {-1, 0, 1} the difference of the outcomes of
image i, n seeds and N images, the half-width at confidence 1 - alpha is

    h^2 = (t(1 - alpha/2, n - 1) sd_s(d_s) / sqrt(n))^2 + z(1 - alpha/2)^2 v / N
    v   = max(0, var_i(mean_s d_si) - mean_i var_s(d_si) / n)

v is the variance between images without the part that the seeds put into it. Source: ours (docs/results.md).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Effect:
    """A difference, one value for each seed, all in one unit; positive if the method has more.

    Attributes:
      by_seed: d_s of each seed, n >= 1 values.
      image_variance: v in the squared unit; None without outcomes of images, then the interval is of seeds only.
      images: N; 0 without outcomes.
    """

    by_seed: tuple[float, ...]
    image_variance: float | None = None
    images: int = 0

    @property
    def mean(self) -> float:
        """The mean over seeds, in the unit of `by_seed`."""
        return statistics.fmean(self.by_seed)

    @property
    def seeds(self) -> int:
        """n, the number of seeds."""
        return len(self.by_seed)

    @property
    def image_term(self) -> float:
        """Returns the standard error from the choice of test images, in the unit; 0 without outcomes."""
        return math.sqrt((self.image_variance or 0.0) / self.images) if self.images else 0.0

    def half_width(self, alpha: float = 0.05, seeds: int | None = None) -> float:
        """Half-width of the interval at confidence 1 - alpha.

        Args:
          alpha: in (0, 1).
          seeds: number of seeds to expect it for, at the spread that was seen; default: those that ran.
        Returns:
          The half-width in the unit; infinity with fewer than two seeds.
        """
        if self.seeds < 2:
            return math.inf
        n = seeds or self.seeds
        spread = t_quantile(1 - alpha / 2, n - 1) * statistics.stdev(self.by_seed) / math.sqrt(n)
        return math.hypot(spread, statistics.NormalDist().inv_cdf(1 - alpha / 2) * self.image_term)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Returns the two-sided interval at confidence 1 - alpha."""
        half = self.half_width(alpha)
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Returns the smallest alpha whose interval excludes zero, in [0, 1]; 1 with fewer than two seeds."""
        if self.seeds < 2:
            return 1.0
        low, high = 0.0, 1.0  # the half-width falls as alpha rises
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.half_width(max(middle, 1e-15)) < abs(self.mean) else (middle, high)
        return high


@functools.cache
def t_quantile(probability: float, degrees: int) -> float:
    """Returns the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def image_variance(differences: np.ndarray) -> float:
    """Computes v, the variance of an effect between test images without the share of the seeds.

    Args:
      differences: int8 [n, N], d_si in {-1, 0, 1}, one line a seed; N >= 2.
    Returns:
      v >= 0 for outcomes of 0 and 1.
    """
    seeds = differences.shape[0]
    sums = differences.sum(0, dtype=np.float64)
    between = float(np.var(sums / seeds, ddof=1))
    if seeds < 2:
        return between
    squares = np.square(differences).sum(0, dtype=np.float64)
    within = float((squares - sums**2 / seeds).mean()) / (seeds - 1)
    return max(0.0, between - within / seeds)


def effect_of(by_seed: Sequence[float], differences: np.ndarray | None = None, scale: float = 1.0) -> Effect:
    """Builds an effect.

    Args:
      by_seed: d_s in the unit.
      differences: int8 [n, N], d_si of the same seeds; None if records hold no outcomes.
      scale: factor from a fraction to the unit: 100 for points.
    """
    if differences is None or differences.shape[1] < 2:
        return Effect(tuple(by_seed))
    return Effect(tuple(by_seed), scale**2 * image_variance(differences), differences.shape[1])
