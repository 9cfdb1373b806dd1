"""How far numbers of a few seeds or images may lie from the truth: intervals, and groups that over-fit alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean and the 95 % t interval of paired differences over seeds; NaN limits for fewer than two.

    Args:
      differences: one number a seed.
    """
    values = np.asarray(differences, float)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def within_interval(
    labels: np.ndarray, predictions: np.ndarray, level: np.ndarray, draws: int = 2000
) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval over images of the share of errors inside the true group; NaN without errors.

    Args:
      labels: int [N] classes.
      predictions: int [N] classes.
      level: int [K], group of each class.
      draws: number of samples with replacement.
    """
    wrong = labels != predictions
    inside = wrong & (level[labels] == level[predictions])
    if not wrong.any():
        return math.nan, math.nan
    rng, shares = np.random.default_rng([0, 0xB007]), []
    for _ in range(draws):
        index = rng.integers(0, len(labels), len(labels))
        total = wrong[index].sum()
        shares.append(inside[index].sum() / total if total else math.nan)
    return float(np.nanpercentile(shares, 2.5)), float(np.nanpercentile(shares, 97.5))


def spread_of_equal_gaps(groups: Sequence[tuple[np.ndarray, np.ndarray]], gap: float, draws: int = 2000) -> np.ndarray:
    """Simulates groups that over-fit alike: how far apart the gaps of few images lie by chance.

    Args:
      groups: for each group bool [T], [M]: which of its training and test images are classified correctly.
      gap: training minus test accuracy that each group has.
      draws: simulated data sets with the same numbers of images.
    Returns:
      float64 [draws], largest minus smallest gap of a group.
    """
    rng = np.random.default_rng([0, 0x5B4EAD])
    train, test = (np.array([len(pair[at]) for pair in groups]) for at in (0, 1))
    accuracy = np.array([pair[0].mean() for pair in groups])
    trained = rng.binomial(train, accuracy, (draws, len(groups))) / train
    gaps = trained - rng.binomial(test, np.clip(accuracy - gap, 0, 1), (draws, len(groups))) / test
    return np.asarray(np.ptp(gaps, axis=1))
