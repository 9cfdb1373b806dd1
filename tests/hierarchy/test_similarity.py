"""Confusions, distances, streaming correlation, and what linkage does with them."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from hierarchy_cnn_torch.method import similarity, statistics
from reproduction.runtime.arrays import confusion_counts

L100 = [np.arange(100) // 50, np.arange(100) // 5]


def planted(per_class=100, seed=0):
    return statistics.planted_confusion(L100, per_class, 0.67, [0.55, 0.3, 0.15], seed)


def ari(a, b):
    return statistics.tree_agreement([np.asarray(a)], [np.asarray(b)])[f"ari_{int(np.max(a)) + 1}"]


def test_a_class_that_does_not_exist_is_not_counted():
    with pytest.raises(ValueError, match="must lie in"):
        confusion_counts(np.array([7]), np.array([0]), 7)


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        ([[1, -2], [0, 1]], None, "negative count -2 at row 0, column 1"),
        ([[1, 0.5], [0, 1]], None, "fractional count 0.5"),
        ([[1, 2, 3], [0, 1, 2]], None, "square"),
        ([[1, 2], [0, 1]], ["a"], "1 names for a confusion matrix of 2"),
        ([[1, np.nan], [0, 1]], None, "not finite"),
        ([["a", "b"], ["c", "d"]], None, "counts are needed"),
    ],
)
def test_bad_confusion_matrices(counts, names, message):
    with pytest.raises(ValueError, match=message):
        similarity.check_confusion(np.array(counts), names)


def test_whole_floats_are_counts():
    assert similarity.check_confusion(np.array([[3.0, 1.0], [0.0, 2.0]])).dtype == np.int64


def test_distances_are_valid_even_with_empty_rows():
    counts = planted()
    counts[3] = 0
    for function in (similarity.confusion_distance, similarity.profile_distance):
        d = function(counts)
        assert np.isfinite(d).all() and (d >= 0).all() and (d == d.T).all() and (np.diag(d) == 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_score_correlation_in_batches_is_numpy_corrcoef(scale):
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(9, 9))
    scores = (rng.normal(size=(5000, 9)) @ mixing) * scale + 1e4 * scale  # a large common offset
    scores = scores.astype(np.float32) if scale == 1.0 else scores
    assert len(scores) > similarity.BATCH
    assert np.allclose(similarity.score_correlation(scores), np.corrcoef(scores, rowvar=False), atol=1e-9)


def test_correlation_of_rows_is_numpy_and_constants_give_zero():
    rows = np.random.default_rng(2).normal(size=(6, 20))
    assert np.allclose(similarity.correlation(rows), np.corrcoef(rows))
    rows[2] = 5
    assert (similarity.correlation(rows)[2, [0, 1, 3, 4, 5]] == 0).all()


def test_average_linkage_recovers_every_planted_level():
    for per_class, seed in ((100, 0), (50, 1)):
        counts = planted(per_class, seed)
        assert 0.6 < np.trace(counts) / counts.sum() < 0.72
        for function in (similarity.confusion_distance, similarity.profile_distance):
            cuts = similarity.cut(similarity.dendrogram(function(counts)), [2, 20])
            assert [int(c.max()) + 1 for c in cuts] == [2, 20]
            assert all(ari(truth, found) >= 0.99 for truth, found in zip(L100, cuts, strict=True))


def test_complete_linkage_collapses_on_sparse_confusions():
    merged = linkage(squareform(similarity.confusion_distance(planted(50)), checks=False), "complete")
    assert abs(ari(L100[0], fcluster(merged, 2, "maxclust") - 1)) < 0.1


def test_average_linkage_at_1000_classes():
    levels = [np.arange(1000) // 500, np.arange(1000) // 100, np.arange(1000) // 20]
    counts = statistics.planted_confusion(levels, 50, 0.67, [0.6, 0.2, 0.12, 0.08], 0)
    cuts = similarity.cut(similarity.dendrogram(similarity.profile_distance(counts)), [2, 10, 50])
    assert all(ari(truth, found) >= 0.99 for truth, found in zip(levels, cuts, strict=True))


def test_score_distance_recovers_groups():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 20, 4000)
    group = np.arange(20) // 5
    scores = 2.0 * (group[y][:, None] == group[None]) + 3.0 * np.eye(20)[y] + rng.normal(size=(4000, 20))
    cuts = similarity.cut(similarity.dendrogram(similarity.score_distance(scores)), [4])
    assert ari(group, cuts[0]) == 1.0


def test_cuts_nest():
    d = similarity.profile_distance(planted())
    with pytest.raises(ValueError, match="2 to 99"):
        similarity.cut(similarity.dendrogram(d), [100])
    assert [int(c.max()) + 1 for c in similarity.cut(similarity.dendrogram(d), [20, 2, 9, 9])] == [2, 9, 20]
