"""Metrics of a list against slow definitions: neighbours and their ties, recall, NMI, confusion, distances."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from triplet_tf.training import evaluate as measures


def points(seed: int, count: int = 40, size: int = 3, grid: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    emb = rng.integers(0, 3, (count, size)) if grid else rng.normal(size=(count, size))
    return emb.astype(np.float32), rng.integers(0, 5, count)


def slow_neighbours(emb: np.ndarray, count: int) -> np.ndarray:
    rows = []
    for i, a in enumerate(emb.astype(np.float64)):
        others = [(float(np.sum((a - b) ** 2)), j) for j, b in enumerate(emb.astype(np.float64)) if j != i]
        rows.append([j for _, j in sorted(others)[:count]])
    return np.array(rows)


@pytest.mark.parametrize("grid", [True, False])  # a grid is full of ties and of equal points
@pytest.mark.parametrize("at_once", [7, 256])
def test_neighbours_and_recall(grid, at_once, monkeypatch):
    monkeypatch.setattr(measures, "AT_ONCE", at_once)
    emb, labels = points(1, grid=grid)
    found = measures.nearest(emb, 9)
    np.testing.assert_array_equal(found, slow_neighbours(emb, 9))
    recalls = measures.recall_at(labels, found, ks=(1, 2, 9))
    for k in (1, 2, 9):
        hits = [any(labels[j] == labels[i] for j in found[i][:k]) for i in range(len(labels))]
        assert recalls[f"recall_at_{k}"] == pytest.approx(np.mean(hits))


def test_few_items():
    emb, labels = points(0, count=3)
    found = measures.nearest(emb, 32)
    assert found.shape == (3, 2)
    assert set(measures.recall_at(labels, found)) == {f"recall_at_{k}" for k in (1, 2, 4, 8, 16, 32)}


def test_equal_embeddings_find_the_lower_number_and_never_themselves():
    found = measures.nearest(np.ones((5, 2), np.float32), 2)
    assert found.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_nmi_is_the_arithmetic_one():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 12)
    centers = np.eye(4)[np.where(rng.random(48) < 0.25, rng.integers(0, 4, 48), labels)]
    emb = (centers + 0.01 * rng.normal(size=(48, 4))).astype(np.float32)
    clusters = centers.argmax(axis=1)  # far apart, so k-means finds exactly these

    def entropy(values):
        return -sum(n / 48 * math.log(n / 48) for n in Counter(values).values())

    mutual = entropy(labels.tolist()) + entropy(clusters.tolist())
    mutual -= entropy(list(zip(labels.tolist(), clusters.tolist(), strict=True)))
    expected = mutual / ((entropy(labels.tolist()) + entropy(clusters.tolist())) / 2)
    assert measures.nmi(emb, labels, 4) == pytest.approx(expected, abs=1e-9)
    assert measures.nmi(emb, labels, 4) == measures.nmi(emb, labels, 4)


def test_nmi_of_a_collapsed_embedding_is_zero_and_no_error():
    assert measures.nmi(np.ones((20, 3), np.float32), np.arange(20) % 4, 4) == pytest.approx(0.0, abs=1e-12)


def outcome(labels, ranked) -> measures.Tested:
    labels = np.array(labels, np.int64)
    return measures.Tested(labels, np.array(ranked, np.int64), np.ones(len(labels), np.float32), np.eye(len(labels)))


def test_accuracies_leave_out_classes_without_images():
    result = measures.accuracies(outcome([0, 0, 0, 1], [[0, 1], [0, 1], [1, 0], [2, 1]]), 3)
    assert result["accuracy"] == 0.5 and result["top5_accuracy"] == 1.0
    assert result["macro_accuracy"] == pytest.approx((2 / 3 + 0) / 2)  # class 2 has no image
    assert result["cross_entropy"] == 1.0


def test_largest_confusions():
    matrix = np.array([[5, 2, 0], [0, 7, 3], [2, 0, 1]])
    found = measures.largest_confusions(matrix, ("a", "b", "c"), count=3)
    assert [(f["true"], f["predicted"], f["images"], f["of"]) for f in found] == [
        ("b", "c", 3, 10),
        ("a", "b", 2, 7),
        ("c", "a", 2, 3),
    ]
    assert measures.largest_confusions(np.eye(3, dtype=int), ("a", "b", "c")) == []


def test_mean_distances_by_sums_equal_those_by_pairs():
    emb, labels = points(3)
    found = measures.mean_distances(emb, labels)
    same, other = [], []
    for i in range(len(emb)):
        for j in range(len(emb)):
            if i != j:
                distance = float(np.sum((emb[i].astype(np.float64) - emb[j]) ** 2))
                (same if labels[i] == labels[j] else other).append(distance)
    assert found["positive_distance"] == pytest.approx(np.mean(same))
    assert found["negative_distance"] == pytest.approx(np.mean(other))
    assert found["embedding_ratio"] == pytest.approx(np.mean(other) / np.mean(same))


def test_a_collapsed_embedding_has_a_ratio_near_1_and_equal_points_0():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    ratio = [
        measures.mean_distances(np.float32(points), labels)["embedding_ratio"]
        for points in (rng.normal(size=(100, 8)), np.ones((100, 8)), np.eye(4)[labels])
    ]
    assert 0.9 < ratio[0] < 1.1 and ratio[1] == 0.0 and 1e6 < ratio[2] < math.inf


def test_what_shows_a_collapse_during_training_is_what_the_record_holds():
    emb, labels = points(4)
    tested = measures.Tested(labels, labels[:, None], np.ones(len(labels), np.float32), emb)
    found = measures.embedding_health(tested)
    assert found["embedding_ratio"] == measures.mean_distances(emb, labels)["embedding_ratio"]
    assert found["recall_at_1"] == np.mean(labels[slow_neighbours(emb, 1)[:, 0]] == labels)


def test_each_image_is_right_or_wrong_by_the_metric_of_that_name():
    result = outcome([0, 0, 0, 1], [[0, 1], [0, 1], [1, 0], [2, 1]])
    right = measures.right_by_metric(result, np.array([[1, 2], [3, 0], [0, 1], [0, 1]]), np.array([[3], [0], [0], [2]]))
    assert {name: bits.tolist() for name, bits in right.items()} == {
        "accuracy": [True, True, False, False],
        "top5_accuracy": [True] * 4,
        "recall_at_1": [True, False, True, False],
        "pooled_recall_at_1": [False, True, True, False],
    }


@pytest.mark.parametrize("heads", [1, 2])
def test_the_images_that_are_right_have_the_mean_of_their_metric(heads):
    from triplet_tf.training.record import all_metrics

    rng = np.random.default_rng(7)
    (emb, labels), (pooled, _) = points(5), points(6, size=4)
    ranked = np.argsort(rng.random((len(labels), 5)), axis=1)[:, :3]
    tested = measures.Tested(labels, ranked, np.ones(len(labels), np.float32), emb, pooled if heads == 2 else None)
    metrics, neighbours, right = all_metrics(tested, 5)
    assert {name: bits.mean() for name, bits in right.items()} == {name: metrics[name] for name in right}
    slow = slow_neighbours(pooled if heads == 2 else emb, 1)[:, 0]
    assert right["pooled_recall_at_1"].tolist() == (labels[slow] == labels).tolist()
    np.testing.assert_array_equal(neighbours, slow_neighbours(emb, 32))
