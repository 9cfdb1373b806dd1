"""Selectivity on hand-made responses and under the null."""

import numpy as np
import pytest

from hierarchy_cnn_torch.method import selectivity

GROUP = np.array([True, True, False, False, False])


def test_perfect_reversed_and_tied_channels():
    responses = np.array([[5, 1, 3.0], [4, 2, 3], [3, 3, 3], [2, 4, 3], [1, 5, 3]])
    for block in (2, 64):
        share = selectivity.sample_selectivity(responses, GROUP, block)
        assert share == pytest.approx([1, 0, 0.4])  # tied: chance level 2/5
    order, share = selectivity.column_order(responses, GROUP)
    assert order.tolist() == [0, 2, 1] and share[0] == 1


def test_ties_across_the_border_count_by_their_expected_share():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (30, 5)).astype(float)
    members = rng.random(30) < 0.4
    expected = np.zeros(5)
    for _ in range(4000):
        top = np.argsort(-(values + rng.random(values.shape) * 1e-3), axis=0)[: members.sum()]
        expected += members[top].mean(0)
    assert selectivity.sample_selectivity(values, members) == pytest.approx(expected / 4000, abs=0.02)


@pytest.mark.parametrize(
    ("classes", "size", "channels", "mean"),
    [(10, 5, 256, 0.93), (100, 5, 384, 0.44), (100, 50, 384, 0.65), (1000, 59, 1376, 0.18)],
)
def test_null_of_the_best_channel_is_what_was_measured(classes, size, channels, mean):
    assert selectivity.random_best(classes, size, channels) == pytest.approx(mean, abs=0.012)


def test_null_formula_equals_simulation():
    rng = np.random.default_rng(1)
    best = [max((rng.permutation(30)[:6] < 6).mean() for _ in range(12)) for _ in range(800)]
    assert selectivity.random_best(30, 6, 12) == pytest.approx(np.mean(best), abs=0.015)


def test_top_class_counts_and_best_with_null():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(12), 50)
    level = np.arange(12) // 3
    responses = rng.normal(size=(600, 70)).astype(np.float32)
    responses[:, 5] += 4 * (level[labels] == 2)
    counts = selectivity.top_class_counts(responses, labels, 12, 150, block=16)
    assert counts.sum(0) == pytest.approx(np.full(70, 150))
    members = level[labels] == 2
    assert counts[level == 2].sum(0) / 150 == pytest.approx(selectivity.sample_selectivity(responses, members))
    out = selectivity.best_with_null(responses, labels, level, 99)
    assert out["channels"][2] == 5 and out["groups"][2] > 0.9 and out["p"] <= 0.02
    nothing = selectivity.best_with_null(np.delete(responses, 5, 1), labels, level, 99)
    assert nothing["p"] > 0.02 and nothing["best"] == pytest.approx(nothing["null_mean"], abs=0.03)


def test_few_groupings_are_all_tried_and_the_true_one_is_among_them():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(10), 20)
    level = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1])
    responses = rng.normal(size=(200, 30)).astype(np.float32)
    responses[:, 7] += 5 * (level[labels] == 0)
    out = selectivity.best_with_null(responses, labels, level)
    assert out["exact"] and len(out["null"]) == 210 and out["p"] == 1 / 210
    assert np.isclose(out["null"], out["best"]).sum() == 1 and out["null"].max() == out["best"]
    drawn = selectivity.best_with_null(responses, labels, level, 99, exact_below=210)
    assert not drawn["exact"] and len(drawn["null"]) == 99 and drawn["best"] == out["best"]


@pytest.mark.parametrize("counts", [[20] * 8, [5, 40, 9, 17, 30, 6, 22, 11]])
def test_every_grouping_is_measured_as_if_it_were_the_level(counts):
    """What makes p valid: the null is the same whichever grouping is the true one, and holds its own value."""
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(8), counts)
    responses = rng.normal(size=(len(labels), 12)).astype(np.float32)
    levels = [rng.permutation([0, 0, 0, 1, 1, 1, 1, 1]) for _ in range(5)]
    found = [selectivity.best_with_null(responses, labels, level) for level in levels]
    for out in found:
        assert len(out["null"]) == 56 and np.allclose(np.sort(out["null"]), np.sort(found[0]["null"]))
        assert np.isclose(out["null"], out["best"]).any()


@pytest.mark.parametrize("exact_below", [1, selectivity.EXACT_BELOW])
@pytest.mark.parametrize("sizes", [(7, 3), (5, 5)])
def test_noise_exceeds_the_null_of_its_own_group_as_rarely_as_said(sizes, exact_below):
    """Also where one group is the larger: there every channel's S is above the mean over groups of the best ones."""
    labels, level = np.repeat(np.arange(10), 20), np.repeat([0, 1], sizes)
    exceeded = []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(200, 24)).astype(np.float32)
        out = selectivity.best_with_null(noise, labels, level, 99, seed, exact_below)
        exceeded.append(np.array(out["groups"]) > out["groups_95"])
    assert (np.mean(exceeded, 0) <= 0.05 + 0.08).all()
    largest = selectivity.sample_selectivity(noise, level[labels] == 0)
    assert sizes[0] == sizes[1] or largest.min() > out["null_95"]


@pytest.mark.parametrize("sizes", [(4, 6), (3, 7), (2, 3, 5)])
def test_all_groupings_give_the_chance_of_a_group_that_random_ones_give(sizes):
    labels, level = np.repeat(np.arange(10), 20), np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    every, drawn = (selectivity.best_with_null(noise, labels, level, 1000, exact_below=below) for below in (10**4, 1))
    assert every["exact"] and not drawn["exact"]
    assert every["groups_95"] == pytest.approx(drawn["groups_95"], abs=0.01)


@pytest.mark.parametrize("exact_below", [1, 1000])
def test_all_layers_see_the_same_groupings_in_the_same_order(exact_below):
    rng = np.random.default_rng(7)
    labels, level = np.repeat(np.arange(10), 15), np.arange(10) // 5
    responses = rng.normal(size=(150, 9)).astype(np.float32)
    one, other = (
        selectivity.best_with_null(layer, labels, level, 50, exact_below=exact_below)
        for layer in (responses, responses[:, ::-1])
    )
    assert one["exact"] == (exact_below > 1) and np.array_equal(one["null"], other["null"])


def test_the_best_of_many_layers_is_no_news_where_nothing_is_there():
    """Whichever grouping is the true one: at most a share a of them may have p <= a."""
    nulls = np.random.default_rng(5).normal(size=(7, 210)) * np.arange(1, 8)[:, None]

    def rows(true):
        return [
            {"best": null[true], "null": null, "null_95": float(np.quantile(null, 0.95)), "exact": True}
            for null in nulls
        ]

    p = np.array([selectivity.best_layer(rows(true))[1] for true in range(210)])
    assert p.min() == 1 / 210 and all((p <= a).mean() <= a + 1e-12 for a in (0.01, 0.05, 0.1, 0.5))
    planted = rows(0)
    planted[2] = planted[2] | {"best": 99.0, "null": np.append(nulls[2][1:], 99.0)}
    assert selectivity.best_layer(planted) == (2, 1 / 210)


def test_auroc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    values, positive = rng.integers(0, 9, 200), rng.random(200) < 0.3
    assert selectivity.auroc(values, positive) == pytest.approx(roc_auc_score(positive, values))
    assert np.isnan(selectivity.auroc(values, np.zeros(200, bool)))


def test_a_group_of_all_or_none_is_refused():
    with pytest.raises(ValueError, match="some but not all"):
        selectivity.sample_selectivity(np.zeros((3, 2)), np.ones(3, bool))
