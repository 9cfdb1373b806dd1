"""Block-diagonality of flat and of planted errors, group accuracies, Mantel, intervals."""

import itertools
import math
import warnings

import numpy as np
import pytest

from hierarchy_cnn_torch.method import intervals, selectivity, statistics, trees

L20 = np.arange(100) // 5
L2 = np.array([0] * 4 + [1] * 6)


def test_fixture_flat_errors_on_100_classes_show_nothing():
    counts = statistics.planted_confusion([L20], 100, 0.67, [], 0)
    out = statistics.block_diagonality(counts, L20, 999)
    assert out["lift"] == pytest.approx(1.02, abs=0.1) and out["p"] > 0.05 and not out["exact"]


def test_fixture_planted_blocks_on_100_classes_are_found():
    counts = statistics.planted_confusion([L20], 100, 0.67, [0.68, 0.32], 0)
    out = statistics.block_diagonality(counts, L20, 999)
    assert out["lift"] == pytest.approx(16.8, abs=1.0) and out["p"] == pytest.approx(0.001)


def test_fixture_flat_errors_on_10_classes_show_nothing():
    counts = statistics.planted_confusion([L2], 1000, 0.8, [], 1)
    out = statistics.block_diagonality(counts, L2)
    assert out["lift"] == pytest.approx(1.04, abs=0.06) and out["p"] > 0.05 and out["exact"]


def test_fixture_planted_blocks_on_10_classes_cannot_beat_one_in_210():
    counts = statistics.planted_confusion([L2], 1000, 0.8, [0.98, 0.02], 0)
    out = statistics.block_diagonality(counts, L2)
    assert out["lift"] == pytest.approx(2.1, abs=0.1) and out["exact"] and out["p"] == pytest.approx(1 / 210)


@pytest.mark.parametrize(("level", "shares"), [(L20, []), (L20, [0.68, 0.32]), (L2, []), (L2, [0.98, 0.02])])
def test_the_null_point_is_what_one_random_grouping_in_twenty_exceeds(level, shares):
    counts = statistics.planted_confusion([level], 100, 0.7, shares, 3)
    out = statistics.block_diagonality(counts, level, 999, seed=1)
    rng = np.random.default_rng(5)
    lifts = []
    for _ in range(400):
        other = rng.permutation(level)
        errors = counts - np.diag(np.diag(counts))
        lifts.append(errors[other[:, None] == other[None]].sum() / errors.sum() / out["expected"])
    assert np.mean(np.array(lifts) > out["null_95"]) == pytest.approx(0.05, abs=0.035)
    assert (out["lift"] > out["null_95"]) == bool(shares) == (out["p"] < 0.05)


@pytest.mark.parametrize("sizes", [(4, 6), (5, 5), (2, 2, 3), (1, 1, 2, 3), (2, 2, 2, 2)])
def test_distinct_splits_are_every_grouping_once(sizes):
    level = np.repeat(np.arange(len(sizes)), sizes)
    found = {
        frozenset(frozenset(np.flatnonzero(s == g).tolist()) for g in set(s.tolist()))
        for s in statistics.distinct_splits(level, 10**6)
    }
    every = (
        {
            frozenset(frozenset(i for i in range(len(level)) if s[i] == g) for g in set(s))
            for s in set(itertools.permutations(level.tolist()))
        }
        if len(level) <= 8
        else None
    )
    count = math.factorial(len(level))
    for size in sizes:
        count //= math.factorial(size)
    for size in set(sizes):
        count //= math.factorial(sizes.count(size))
    assert len(found) == count == len(list(statistics.distinct_splits(level, 10**6)))
    assert every is None or found == every
    assert statistics.distinct_splits(level, count) is None


def test_block_statistics_equal_slow_loops():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 9, (8, 8))
    level = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    within = total = expected = matched = 0.0
    for i in range(8):
        row = sum(counts[i, j] for j in range(8) if j != i)
        total += row
        columns = [sum(counts[k, j] for k in range(8) if k != j) for j in range(8)]
        expected += row * (sum(level == level[i]) - 1) / 7
        elsewhere = sum(columns[j] for j in range(8) if j != i)
        matched += row * sum(columns[j] for j in range(8) if j != i and level[j] == level[i]) / elsewhere
        within += sum(counts[i, j] for j in range(8) if j != i and level[i] == level[j])
    out = statistics.block_diagonality(counts, level)
    assert out["within"] == pytest.approx(within / total)
    assert out["expected"] == pytest.approx(expected / total)
    assert out["expected_matched"] == pytest.approx(matched / total)
    assert out["lift"] == pytest.approx(within / expected)
    reached = every = 0
    for permuted in set(itertools.permutations(level.tolist())):
        g = np.array(permuted)
        every += 1
        reached += statistics.within_share(counts - np.diag(np.diag(counts)), g) >= out["within"] - 1e-12
    assert out["p"] == pytest.approx(reached / every)  # label orders repeat each grouping equally often


def test_no_errors_gives_nan_not_a_crash():
    out = statistics.block_diagonality(np.eye(6, dtype=int) * 5, np.array([0, 0, 0, 1, 1, 1]))
    assert math.isnan(out["lift"]) and math.isnan(statistics.mistake_severity(np.eye(6), [np.zeros(6, int)]))


def test_test_images_of_one_group_have_no_chance_corrected_accuracy():
    report = statistics.group_report(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), np.array([0, 0, 1]))
    assert report["accuracy"] == 1 and math.isnan(report["corrected"])
    assert math.isnan(selectivity.chance(report["corrected"], np.zeros(9), exact=False))
    assert math.isnan(selectivity.chance(0.5, np.array([0.1, math.nan]), exact=True))
    counted = statistics.counted_epochs_to_90([0, 1, 2], [[math.nan] * 3, [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert counted == pytest.approx([math.nan, 3, 0.9], nan_ok=True)


def test_groups_terms_and_severity_against_loops():
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 9, (6, 6)) + np.diag([20] * 6)
    levels = [np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 2])]
    grouped = statistics.group_counts(counts, levels[1])
    slow = np.zeros((3, 3), int)
    for i in range(6):
        for j in range(6):
            slow[levels[1][i], levels[1][j]] += counts[i, j]
    assert (grouped == slow).all()
    report = statistics.group_report(counts, levels[1])
    assert report["recall"][2] == pytest.approx(slow[2, 2] / slow[2].sum())
    assert report["f1"][0] == pytest.approx(2 * slow[0, 0] / (slow[0].sum() + slow[:, 0].sum()))
    q = slow.sum(1).max() / slow.sum()
    assert report["corrected"] == pytest.approx((report["accuracy"] - q) / (1 - q))
    terms = statistics.class_terms(counts)
    assert terms["popularity"][1] == pytest.approx(counts[:, 1].sum() / counts[1].sum())
    assert terms["in_mix"][1] == pytest.approx((counts[:, 1].sum() - counts[1, 1]) / counts[:, 1].sum())
    assert terms["out_mix"][1] == pytest.approx(1 - terms["recall"][1])
    height = trees.lca_height(levels, 6)
    errors = [(i, j) for i in range(6) for j in range(6) if i != j for _ in range(counts[i, j])]
    assert statistics.mistake_severity(counts, levels) == pytest.approx(np.mean([height[e] for e in errors]))
    shares = statistics.nested_shares(counts, levels)
    inside0 = [e for e in errors if levels[0][e[0]] == levels[0][e[1]]]
    inside1 = [e for e in inside0 if levels[1][e[0]] == levels[1][e[1]]]
    assert shares == pytest.approx([len(inside0) / len(errors), len(inside1) / len(inside0)])
    accuracies = [np.trace(statistics.group_counts(counts, g)) / counts.sum() for g in levels]
    accuracies.append(np.trace(counts) / counts.sum())
    conditional = [accuracies[1] / accuracies[0], accuracies[2] / accuracies[1]]
    assert statistics.conditional_accuracy(counts, levels) == pytest.approx(conditional)


def test_mixed_classes_are_beyond_the_groups_90th_percentile():
    values = np.array([0.1, 0.1, 0.1, 0.9, 0.5])
    assert statistics.mixed_classes(values, np.array([0, 0, 0, 0, 1])).tolist() == [False, False, False, True, False]


def test_mantel_finds_planted_similarity_and_nothing_in_noise():
    from scipy.stats import spearmanr

    levels = [np.arange(20) // 10, np.arange(20) // 5]
    depth = 3 - trees.lca_height(levels, 20)
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(20, 20))
    noise = (noise + noise.T) / 2
    found, nothing = statistics.mantel(depth + noise, levels, 499), statistics.mantel(noise, levels, 499)
    upper = np.triu_indices(20, 1)
    assert found["rho"] == pytest.approx(spearmanr((depth + noise)[upper], depth[upper]).statistic)
    assert found["p"] == pytest.approx(1 / 500) and nothing["p"] > 0.02


def test_random_trees_of_mantel_equal_a_slow_oracle_and_are_the_same_for_every_layer():
    """The null of a rise from layer to layer: Spearman anew with each relabelled tree, difference by difference."""
    from scipy.stats import spearmanr

    levels = [np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 2, 3, 3])]
    rng, upper = np.random.default_rng(7), np.triu_indices(7, 1)
    layers = [x + x.T for x in rng.normal(size=(2, 7, 7))]
    measured = [statistics.mantel(layer, levels, 60) for layer in layers]
    deals = np.random.default_rng([0, 0x3A17E1])
    slow = np.zeros((60, 2))
    for row in slow:
        shuffle = deals.permutation(7)
        depth = 3 - trees.lca_height([level[shuffle] for level in levels], 7)
        row[:] = [spearmanr(layer[upper], depth[upper]).statistic for layer in layers]
    assert np.stack([m["null"] for m in measured], 1) == pytest.approx(slow, abs=1e-12)
    for m, null in zip(measured, slow.T, strict=True):
        assert m["p"] == (1 + sum(value >= m["rho"] - 1e-12 for value in null)) / 61
    assert np.isnan(statistics.mantel(np.ones((7, 7)), levels, 5)["null"]).tolist() == [True] * 5


def test_random_trees_have_no_correlation_on_average():
    from scipy.stats import spearmanr

    level, similarity, upper = (
        np.array([0, 0, 1, 1, 1]),
        np.random.default_rng(8).normal(size=(5, 5)),
        np.triu_indices(5, 1),
    )
    alike = [(level[list(order)][:, None] == level[list(order)])[upper] for order in itertools.permutations(range(5))]
    values = [spearmanr((similarity + similarity.T)[upper], same).statistic for same in alike]
    assert np.mean(values) == pytest.approx(0, abs=1e-12) and np.std(values) > 0.1


def test_epochs_of_many_curves_count_those_that_do_not_rise():
    epochs, rng = [0, 1, 2, 5, 8], np.random.default_rng(9)
    curves = np.vstack([rng.normal(size=(30, 5)).cumsum(1), np.zeros(5)])
    grid = np.linspace(0, 8, 80001)
    for curve, found in zip(curves, statistics.counted_epochs_to_90(epochs, curves), strict=True):
        goal = curve[0] + 0.9 * (curve[-1] - curve[0])
        slow = grid[np.argmax(np.interp(grid, epochs, curve) >= goal)] if curve[-1] > curve[0] else 9
        assert found == pytest.approx(slow, abs=2e-4)


def test_epoch_to_90_interpolates():
    assert statistics.epoch_to_90([0, 1, 2, 4], [0.0, 0.5, 0.8, 1.0]) == pytest.approx(3.0)
    assert statistics.epoch_to_90([0, 1, 2], [0.0, 0.95, 1.0]) == pytest.approx(0.9 / 0.95)
    assert math.isnan(statistics.epoch_to_90([0, 1], [0.5, 0.4]))


def test_epochs_to_the_lower_end_equal_a_slow_search_and_favour_neither_curve():
    rng = np.random.default_rng(11)
    rising = 0.6 - 0.4 * np.exp(-np.arange(12) / 6)
    pairs = rising + 0.005 * rng.normal(size=(2000, 2, 12))  # two equal networks: the same curve, each its own noise
    found = np.array([statistics.epochs_to_lower_end(*pair) for pair in pairs])
    assert abs((found[:, 0] - found[:, 1]).mean()) < 0.05
    assert statistics.epochs_to_lower_end(*pairs[0, ::-1]) == tuple(found[0, ::-1])
    grid = np.linspace(1, 12, 110_001)
    for pair, epochs in zip(pairs[:50], found, strict=False):
        for curve, epoch in zip(pair, epochs, strict=True):
            drawn = np.interp(grid, np.arange(1, 13), curve)
            assert epoch == pytest.approx(grid[np.argmax(drawn >= pair[:, -1].min() - 1e-12)], abs=2e-4)
    assert statistics.epochs_to_lower_end([0.5, 0.9], [0.1, 0.3, 0.4]) == (1.0, 3.0)


def test_intervals():
    from scipy.stats import ttest_1samp

    values = [0.01, 0.03, -0.01, 0.02, 0.04]
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert intervals.paired_interval(values) == pytest.approx((np.mean(values), interval.low, interval.high))
    assert math.isnan(intervals.paired_interval([0.1])[1])
    inside = np.random.default_rng(0).random(400) < 0.3  # errors of class 0, all of them; classes 0 and 1 are a group
    labels, level = np.zeros(400, int), np.array([0, 0, 1])
    low, high = intervals.within_interval(labels, np.where(inside, 1, 2), level, 500)
    assert low < inside.mean() < high and high - low == pytest.approx(4 * inside.std() / 20, rel=0.15)
    with warnings.catch_warnings(action="error"):
        assert np.isnan(intervals.within_interval(labels, labels, level, 500)).all()


def test_tree_agreement_matches_the_definitions():
    from sklearn.metrics import adjusted_rand_score, fowlkes_mallows_score

    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 4, 40), rng.integers(0, 4, 40)
    out = statistics.tree_agreement([a], [b])
    assert out["ari_4"] == pytest.approx(adjusted_rand_score(a, b))
    assert out["fowlkes_mallows_4"] == pytest.approx(fowlkes_mallows_score(a, b))
    assert statistics.tree_agreement([a], [a])["cophenetic_spearman"] == pytest.approx(1)


def test_a_spread_of_gaps_is_judged_against_groups_that_over_fit_alike():
    """Few images a group spread equal gaps by many points; only a group that really over-fits more exceeds that."""
    rng = np.random.default_rng(0)

    def p_of(gaps, images=100):
        pairs = [(rng.random(5 * images) < 0.8, rng.random(images) < 0.8 - gap) for gap in gaps]
        measured = [float(a.mean() - b.mean()) for a, b in pairs]
        null = intervals.spread_of_equal_gaps(pairs, float(np.mean(measured)), 500)
        assert null.shape == (500,) and null.min() >= 0
        return float((null >= max(measured) - min(measured)).mean()), float(null.mean())

    alike = [p_of([0.2] * 20) for _ in range(200)]
    assert 0.01 <= np.mean([p <= 0.05 for p, _ in alike]) <= 0.11
    assert 0.12 < np.mean([mean for _, mean in alike]) < 0.25  # 20 groups of 100 images, although all gaps are equal
    assert np.mean([p_of([0.2] * 19 + [0.5])[0] for _ in range(20)]) < 0.01
    assert p_of([0.2] * 20, 10_000)[1] < 0.03
