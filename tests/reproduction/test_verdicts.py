"""Every line of the table of verdicts, Holm's adjustment and the planned seeds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduction.compare.effects import Effect
from reproduction.compare.verdicts import Control, holm, judge, planned_seeds, seeds_to_decide


def effect(mean: float, half: float, seeds: int = 5, images: int = 0) -> Effect:
    """An effect whose 95 % interval is mean +- half, from seeds alone."""
    shape = [(-1.0) ** k for k in range(seeds)] if seeds % 2 == 0 else [(-1.0) ** k for k in range(seeds - 1)] + [0.0]
    width = Effect(tuple(shape)).half_width()
    return Effect(tuple(mean + half / width * value for value in shape), 0.0 if images else None, images)


@pytest.mark.parametrize(
    ("mean", "half", "options", "line", "text"),
    [
        (0.1, 0.3, {}, 2, "no effect larger than 0.5"),
        (0.4, 0.1, {}, 2, "no effect larger than 0.5"),  # significant, and too small to matter
        (-0.1, 0.3, {"no_loss": True}, 2, "supported"),
        (2.0, 0.3, {"no_loss": True}, 2, "supported"),  # a gain is no loss
        (-2.0, 0.3, {"no_loss": True}, 3, "contradicted"),
        (-0.4, 0.6, {"no_loss": True}, 6, "inconclusive: 9 seeds would decide"),
        (-2.0, 1.0, {}, 3, "contradicted"),
        (2.0, 1.0, {}, 4, "supported"),
        (2.0, 0.4, {"published": 2.2}, 4, "agrees with the paper"),
        (2.0, 1.5, {"published": 2.2}, 4, "supported, size open"),
        (2.0, 0.4, {"published": 3.2}, 4, "smaller than the paper's"),
        (2.0, 0.4, {"published": 0.2}, 4, "larger than the paper's"),
        (0.5, 0.8, {"published": 2.0}, 5, "smaller than the paper's, possibly none"),
        (0.5, 0.8, {"published": 1.0}, 6, "inconclusive: 9 seeds would decide"),
        (0.5, 0.8, {}, 6, "inconclusive: 9 seeds would decide"),
    ],
)
def test_each_line_of_the_table(mean, half, options, line, text):
    verdict = judge(effect(mean, half), 0.5, **options)
    assert (verdict.line, verdict.text) == (line, text)
    assert judge(effect(mean, half, 3), 0.5, **options).text.endswith("(few seeds)")


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (1.5, 1.0, "supported"),  # above the control too
        (0.0, 0.3, "explained by doubling"),
        (-1.5, 1.0, "explained by doubling"),  # the control is better than the method
        (0.3, 1.0, "supported, control undecided"),
        (0.4, 0.1, "supported"),  # above the control, if only a little
    ],
)
def test_the_control_decides_before_the_size(mean, half, text):
    for published in (None, 2.0):
        verdict = judge(effect(2.0, 0.5), 0.5, control=Control("doubling", effect(mean, half)), published=published)
        expected = "agrees with the paper" if published and text == "supported" else text
        assert (verdict.line, verdict.text) == (4, expected)


def test_a_control_that_was_not_run_decides_nothing():
    assert (
        judge(effect(2.0, 0.5), 0.5, control=Control("doubling", None)).text == "supported, control undecided (not run)"
    )


@pytest.mark.parametrize(("seeds", "few"), [(2, True), (5, False)])
def test_a_control_of_few_seeds_makes_the_verdict_one_of_few_seeds(seeds, few):
    verdict = judge(effect(2.0, 0.5), 0.5, control=Control("doubling", effect(1.5, 0.4, seeds)))
    assert verdict.text == "supported" + " (few seeds)" * few


def test_a_verdict_on_an_effect_that_may_be_none_has_its_own_word():
    smaller, none = judge(effect(2.0, 0.4), 0.5, published=3.2), judge(effect(0.5, 0.8), 0.5, published=2.0)
    assert smaller.word == "smaller than the paper's" and none.word == "smaller than the paper's, possibly none"


def test_a_control_is_not_asked_without_an_effect():
    assert judge(effect(0.0, 0.2), 0.5, control=Control("doubling", effect(0.0, 0.2))).word == "no effect"


def test_seeds_that_would_decide():
    assert seeds_to_decide(effect(0.5, 0.8), 0.5) == "9 seeds would decide"
    assert judge(effect(0.5, 0.8), 0.5).line == 6
    enough = effect(0.5, 0.8)
    assert abs(enough.mean) > enough.half_width(0.05, 9) and abs(enough.mean) <= enough.half_width(0.05, 8)
    assert seeds_to_decide(Effect((1.0,)), 0.5) == "one seed has no spread; 3 at least"
    assert seeds_to_decide(effect(0.5, 20), 0.5) == "more than 100 seeds would decide"
    noisy = Effect((0.5, 0.51, 0.49), image_variance=400.0, images=100)  # 2 points of the test set's own
    assert seeds_to_decide(noisy, 0.5) == "test set too small; no number of seeds decides"


def test_planned_seeds():
    assert planned_seeds(effect(1.0, 0.2, 3), 0.5) == "5 seeds"  # never fewer
    assert planned_seeds(effect(1.0, 1.5, 3), 0.5) == "9 seeds"
    assert planned_seeds(effect(1.0, 9.0, 3), 0.5) == "10 seeds"  # never more
    assert planned_seeds(effect(1.0, 1.5, 3), 0.5, published=4.0) == "5 seeds"  # half of E is enough
    noisy = Effect((0.5, 0.51, 0.49), image_variance=400.0, images=100)
    assert planned_seeds(noisy, 0.5).startswith("test set too small: no number of seeds gives ±0.5")


def slow_holm(p_values, level):
    """By the closure of Bonferroni tests: rejected if every subset that holds the hypothesis is rejected."""
    names = list(p_values)
    subsets = [s for size in range(1, len(names) + 1) for s in itertools.combinations(names, size)]
    rejected = {s for s in subsets if min(p_values[name] for name in s) <= level / len(s)}
    return {name for name in names if all(s in rejected for s in subsets if name in s)}


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=5))
def test_holm_is_the_closed_bonferroni_test(values):
    family = {f"claim {k}": p for k, p in enumerate(values)}
    assert holm(family) == slow_holm(family, 0.05)


def test_holm_of_nothing():
    assert holm({}) == set()
