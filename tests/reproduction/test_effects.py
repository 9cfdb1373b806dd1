"""The interval of an effect: against plain formulas, and its error rates over simulated experiments."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reproduction.compare.effects import Effect, effect_of, image_variance
from reproduction.compare.export import interval_text

EXPERIMENTS = 2000


def slow_half_width(by_seed, differences, alpha=0.05):
    """verdicts as written down: loops over images, scipy's quantiles."""
    n, images = len(by_seed), len(differences[0])
    means = [statistics.fmean(row[i] for row in differences) for i in range(images)]
    within = [statistics.variance([row[i] for row in differences]) for i in range(images)]
    v = max(0.0, statistics.variance(means) - statistics.fmean(within) / n)
    seeds = stats.t.ppf(1 - alpha / 2, n - 1) * statistics.stdev(by_seed) / math.sqrt(n)
    return math.sqrt(seeds**2 + stats.norm.ppf(1 - alpha / 2) ** 2 * v / images)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_the_half_width_is_the_formula(seeds, images, draw):
    rng = np.random.default_rng(draw)
    differences = rng.integers(-1, 2, (seeds, images)).astype(np.int8)
    by_seed = differences.mean(1)
    effect = effect_of(by_seed.tolist(), differences)
    assert effect.half_width() == pytest.approx(slow_half_width(by_seed, differences.tolist()))
    assert effect.half_width(0.1) == pytest.approx(slow_half_width(by_seed, differences.tolist(), 0.1))


def test_points_scale_both_terms():
    differences = np.array([[1, 0, -1, 0], [1, 1, 0, 0], [0, 1, 0, 0]], np.int8)
    fraction, points = (
        effect_of(differences.mean(1), differences),
        effect_of(100 * differences.mean(1), differences, 100),
    )
    assert points.half_width() == pytest.approx(100 * fraction.half_width())


def test_without_outcomes_the_seeds_stand_alone():
    effect = effect_of([1.0, 2.0, 3.0])
    assert effect.interval() == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)  # 4.302653 / sqrt(3)
    assert effect.image_variance is None and effect.image_term == 0


def test_one_seed_has_no_interval():
    assert effect_of([1.0]).half_width() == math.inf and effect_of([1.0]).p_value() == 1.0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8).filter(lambda values: statistics.stdev(values) > 1e-3))
def test_p_is_the_smallest_alpha_whose_interval_excludes_zero(values):
    effect = Effect(tuple(values))
    p = effect.p_value()
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=1e-6)
    if 1e-6 < p < 0.999:
        assert abs(effect.mean) >= effect.half_width(min(p * 1.001, 1.0)) - 1e-9
        assert abs(effect.mean) <= effect.half_width(p * 0.999) + 1e-9


def simulate(rng, seeds: int, images: int, noise: str, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """One experiment.

    Args:
      noise: "seeds": runs differ and every image is as hard as any other; "images": equal runs on images drawn anew;
        "both".
      shift: the true effect, a share of the images.
    Returns:
      d_s [n] and d_si [n, N].
    """

    def draw(win: np.ndarray | float, shape: tuple[int, ...]) -> np.ndarray:
        """1 with probability `win`, -1 with 0.06 - `win`."""
        draws = rng.integers(0, 2**16, shape, np.uint16)
        return (draws < np.asarray(2**16 * win)).astype(np.int8) - (draws >= np.asarray(2**16 * (0.94 + win)))

    of_images = draw(0.03 + shift / 2, (images,))
    if noise == "images":
        rows = np.repeat(of_images[None], seeds, 0)
    else:
        drift = np.clip(rng.normal(0, 0.004, (seeds, 1)), -0.012, 0.012)
        rows = draw(0.03 + (shift + drift) / 2, (seeds, images))
        if noise == "both":
            rows = np.where(np.arange(images) % 10, of_images[None], rows)  # 9 of 10 images: the same in each run
    return rows.mean(1, dtype=np.float64), rows


NINE = [(seeds, 1000, noise) for seeds in (3, 5, 10) for noise in ("seeds", "images", "both")]


@pytest.mark.parametrize(("seeds", "images", "noise"), [*NINE, (5, 10_000, "both")])
def test_error_rates(seeds, images, noise):
    """Without an effect 2 to 7 % of the intervals exclude zero; an effect of twice the half-width is found in 90 %."""
    rng = np.random.default_rng([seeds, images, "seeds images both".split().index(noise)])
    wrong, widths = 0, []
    for _ in range(EXPERIMENTS):
        effect = effect_of(*simulate(rng, seeds, images, noise, 0.0))
        wrong += abs(effect.mean) > effect.half_width()
        widths.append(effect.half_width())
    assert 0.02 <= wrong / EXPERIMENTS <= 0.07, wrong / EXPERIMENTS
    found = 0
    shift = 2 * float(np.median(widths))
    for _ in range(EXPERIMENTS):
        effect = effect_of(*simulate(rng, seeds, images, noise, shift))
        low, _ = effect.interval()
        found += low > 0
    assert found / EXPERIMENTS >= 0.9, found / EXPERIMENTS


def test_image_variance_leaves_the_seeds_share_out():
    """Pure coin flips: every image is alike, so v is about 0 although images differ by chance."""
    rng = np.random.default_rng(0)
    flips = rng.choice([-1, 0, 1], (10, 10_000), p=[0.05, 0.9, 0.05]).astype(np.int8)
    assert image_variance(flips) < 0.1 * float(np.var(flips.mean(0)))
    assert image_variance(np.repeat(flips[:1], 10, 0)) == pytest.approx(float(np.var(flips[0], ddof=1)))


@pytest.mark.parametrize("mean", [-1e-9, 0.0, 1e-9])
def test_a_rounded_zero_has_one_sign(mean):
    assert interval_text(Effect((mean - 1, mean + 1)), "points").startswith("+0.00 [-")
