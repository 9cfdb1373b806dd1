"""Scores against slow definitions; McNemar; what lies between clusters."""

import csv
import io
import itertools
import math

import numpy as np
import pytest

from finegrained_torch import flags as tables
from finegrained_torch.method import agreement as scores
from reproduction.compare.extras import mcnemar


def pair_ari(labels, truth):
    """Adjusted Rand index from all pairs."""
    both = same_l = same_t = total = 0
    for a, b in itertools.combinations(range(len(labels)), 2):
        l, t = labels[a] == labels[b], truth[a] == truth[b]  # noqa: E741
        both, same_l, same_t, total = both + (l and t), same_l + l, same_t + t, total + 1
    expected = same_l * same_t / total
    top = (same_l + same_t) / 2
    return 1.0 if top == expected else (both - expected) / (top - expected)


def entropy(labels):
    shares = [np.mean(labels == value) for value in np.unique(labels)]
    return -sum(p * math.log(p) for p in shares)


def joint_entropy(labels, truth):
    return entropy(np.array([a * 1000 + b for a, b in zip(labels, truth, strict=True)]))


def test_scores_equal_their_definitions():
    rng = np.random.default_rng(0)
    for _ in range(25):
        n = int(rng.integers(5, 40))
        labels, truth = rng.integers(0, 4, n), rng.integers(0, 3, n)
        found = scores.agreement(labels, truth)
        h_l, h_t, h_both = entropy(labels), entropy(truth), joint_entropy(labels, truth)
        mutual = h_l + h_t - h_both
        assert found["ari"] == pytest.approx(pair_ari(labels, truth), abs=1e-9)
        if h_l + h_t > 0:
            assert found["nmi"] == pytest.approx(mutual / ((h_l + h_t) / 2), abs=1e-9)
        assert found["homogeneity"] == pytest.approx(mutual / h_t if h_t else 1.0, abs=1e-9)
        assert found["completeness"] == pytest.approx(mutual / h_l if h_l else 1.0, abs=1e-9)
        largest = [max(np.sum((labels == k) & (truth == j)) for j in range(3)) for k in np.unique(labels)]
        assert found["purity"] == pytest.approx(sum(largest) / n)


def test_means_over_classes_and_the_inflated_global_value():
    rng = np.random.default_rng(1)
    coarse = np.repeat([0, 1], [300, 100])
    fine = np.concatenate([rng.integers(0, 3, 300), 3 + rng.integers(0, 2, 100)])
    pseudo = np.concatenate([rng.integers(0, 3, 300), 3 + rng.integers(0, 2, 100)])  # nothing within a class
    made = scores.score(pseudo, fine, coarse)
    a, b = made["per_class"]
    assert (a["class"], a["count"], b["class"], b["count"]) == (0, 300, 1, 100)
    assert made["weighted"]["ari"] == pytest.approx((300 * a["ari"] + 100 * b["ari"]) / 400)
    assert made["class_mean"]["ari"] == pytest.approx((a["ari"] + b["ari"]) / 2)
    assert abs(made["class_mean"]["ari"]) < 0.05 < made["global"]["ari"]  # the coarse label alone gives that
    perfect = scores.score(fine, fine, coarse)
    assert all(perfect["class_mean"][name] == pytest.approx(1) for name in scores.NAMES)


def test_images_without_a_label_do_not_count():
    coarse, fine = np.zeros(6, np.int64), np.array([0, 0, 1, 1, -1, 0])
    pseudo = np.array([0, 0, 1, 1, 1, -1])
    made = scores.score(pseudo, fine, coarse)
    assert made["per_class"][0]["count"] == 4 and made["class_mean"]["ari"] == 1
    none = scores.score(np.full(6, -1), fine, coarse)
    assert none == {"per_class": [], "weighted": {}, "class_mean": {}, "global": {}}


def test_stability_is_the_mean_over_pairs_of_seeds_on_the_images_that_both_label():
    rng = np.random.default_rng(2)
    coarse = np.repeat([0, 1, 2], [30, 20, 10])
    seeds = [np.where(rng.random(60) < 0.1, -1, 3 * coarse + rng.integers(0, 3, 60)) for _ in range(3)]
    for labels in seeds:
        labels[coarse == 2] = 6  # left whole in every seed: nothing to compare
    found = scores.between_seeds(seeds, coarse)
    assert set(found) == {0, 1}
    for label, value in found.items():
        slow = []
        for a, b in itertools.combinations(seeds, 2):
            here = [at for at in np.flatnonzero(coarse == label) if a[at] >= 0 and b[at] >= 0]
            slow.append(pair_ari(a[here], b[here]))
        assert value == pytest.approx(np.mean(slow), abs=1e-9)
    renamed = [seeds[0], np.where(seeds[0] >= 0, 20 - seeds[0], -1)]  # the same clusters by other names
    assert scores.between_seeds(renamed, coarse) == pytest.approx({0: 1.0, 1: 1.0})
    assert scores.between_seeds(seeds[:1], coarse) == {}


def test_contingency_counts_every_image_once():
    rng = np.random.default_rng(2)
    pseudo, fine = rng.integers(-1, 5, 200), rng.integers(-1, 3, 200)
    text = scores.contingency_csv(pseudo, fine, [0, 0, 1, 1, 1], ["a", 'b "x", y', "c"])
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["cluster", "coarse", "a", 'b "x", y', "c"]
    for cluster, coarse, *counts in rows:
        assert int(coarse) == [0, 0, 1, 1, 1][int(cluster)]
        for j, count in enumerate(counts):
            assert int(count) == np.sum((pseudo == int(cluster)) & (fine == j))
    assert sum(int(cell) for row in rows for cell in row[2:]) == np.sum((pseudo >= 0) & (fine >= 0))


def test_between_clusters_shares():
    coarse = np.repeat([0, 1], 50)
    certain = np.tile(np.arange(50) >= 10, 2)  # 10 uncertain images in each class
    strength = np.where(certain, 0.9, 0.1).astype(np.float32)
    hard = np.where(certain, 0, -1)
    hard[20] = -1  # one certain image is noise
    found = scores.in_between(hard, strength, coarse, certain)
    assert found["noise_uncertain"] == 1 and found["noise_certain"] == pytest.approx(1 / 80)
    assert found["weak_uncertain"] == pytest.approx(0.5) and found["weak_certain"] == 0  # 5 of 50 in each class
    assert scores.in_between(hard, strength, coarse, np.ones(100, bool)) == {}
    assert scores.in_between(np.full(100, -2), strength, coarse, certain) == {}
    assert scores.in_between(np.where(certain, hard, -2), strength, coarse, certain) == {}
    small = np.array([2] * 7)  # a class that HDBSCAN was not run on changes nothing
    more = np.append(hard, small * -1), np.append(strength, small * 0), np.append(coarse, small)
    assert scores.in_between(*more, np.append(certain, small > 2)) == found


def test_structure_is_weighted_by_images_and_leaves_unknown_out():
    per_class = [
        {"count": 30, "silhouette": 0.5, "noise_share": 0.1, "disagreement": None},
        {"count": 10, "silhouette": None, "noise_share": 0.5, "disagreement": None},
    ]
    assert scores.structure(per_class) == {"silhouette": 0.5, "noise_share": pytest.approx(0.2)}


def test_mcnemar_is_the_exact_binomial_test():
    for a, b in ((0, 0), (5, 0), (3, 9), (12, 12), (40, 21)):
        first = np.array([True] * a + [False] * b + [True] * 7 + [False] * 3)
        second = np.array([False] * a + [True] * b + [True] * 7 + [False] * 3)
        n = a + b
        one_side = sum(math.comb(n, k) for k in range(min(a, b) + 1)) / 2**n if n else 1.0
        only_a, only_b, p = mcnemar(first, second)
        assert (only_a, only_b) == (a, b) and p == pytest.approx(min(1.0, 2 * one_side))
    with pytest.raises(ValueError, match="different test sets"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_rows_have_one_name_each():
    every = [
        tables.variant("coarse"),
        tables.variant("fine-tune"),
        tables.variant("fine-tune", head="deep_layer"),
        tables.variant("fine-tune", head="keep_sub_head"),
        tables.variant("multi-head", alpha=0.1),
        tables.variant("multi-head", alpha=0.9),
        tables.variant("fine-tune", use_pseudo=False),
        tables.variant("multi-head", use_pseudo=False, alpha=0.1),
        tables.variant("multi-head", use_pseudo=False, alpha=0.9),
        *(tables.variant("coarse", control=name) for name in ("budget", "certain")),
        tables.variant("fine-tune", sub_labels="random"),
        tables.variant("multi-head", sub_labels="random", alpha=0.9),
        *(tables.variant("fine-tune", sub_labels=name) for name in tables.SUB_LABELS[2:]),
    ]
    assert every == list(tables.TITLES) and len(set(every)) == len(every)
    assert tables.variant("sub", use_pseudo=False) == "ft-true"
    assert tables.variant("multi-head", alpha=0.25) == "mh025"
    assert tables.row_name("mnist5k-cpu", "ft") == "mnist5k-cpu-ft" and tables.row_name(None, "ft") is None
    assert tables.ordered(["zz", "mh09", "", "ft"]) == ["", "ft", "mh09", "zz"]
