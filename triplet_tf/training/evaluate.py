"""Metrics over a whole test list: accuracies from a confusion matrix, recall@K, NMI of clusters. NumPy arrays in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reproduction.runtime.arrays import confusion_counts

if TYPE_CHECKING:
    from triplet_tf.training.graph import Evaluation

RECALLS = (1, 2, 4, 8, 16, 32)
TOP = 5
KMEANS_RESTARTS, KMEANS_SEED = 10, 0
TINY = 1e-12  # squared distances of equal points
AT_ONCE = 256  # queries whose distances are in memory at a time


class Tested(NamedTuple):
    """Answers of the network for a list, in its order.

    Attributes:
      labels: int64 [N].
      ranked: int64 [N, min(5, C)], the likeliest classes, the lower class first among equal logits.
      cross_entropy: float32 [N].
      embeddings: float32 [N, d], unit length.
      pooled: float32 [N, c], the pooled features of a network with two heads, unit length; None in mode vanilla, whose
        embeddings they are.
    """

    labels: np.ndarray
    ranked: np.ndarray
    cross_entropy: np.ndarray
    embeddings: np.ndarray
    pooled: np.ndarray | None = None


def run_test(session: Any, evaluation: Evaluation) -> Tested:
    """Runs the evaluation copy over the whole list, in order, no image left out."""
    evaluation.batches.start(session)
    tensors = [evaluation.batches.labels, evaluation.logits, evaluation.cross_entropy, evaluation.embeddings]
    tensors += [] if evaluation.pooled is None else [evaluation.pooled]
    count, parts = 0, []
    while count < len(evaluation.batches.lists.test.names):
        labels, logits, *others = session.run(tensors)
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :TOP].astype(np.int64)
        parts.append((labels, ranked, *others))
        count += len(labels)
    return Tested(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def right_by_metric(tested: Tested, neighbours: np.ndarray, of_pooled: np.ndarray) -> dict[str, np.ndarray]:
    """Returns accuracy, top-5 accuracy and both recalls@1 of each image, bool [N], by the names of the metrics.

    Args:
      tested: answers for the list.
      neighbours: int64 [N, M] of `nearest`, by the embeddings.
      of_pooled: int64 [N, M] of `nearest`, by the pooled features.
    """
    hits = tested.ranked == tested.labels[:, None]
    same, same_pooled = (tested.labels[numbers[:, 0]] == tested.labels for numbers in (neighbours, of_pooled))
    recalls = {"recall_at_1": same, "pooled_recall_at_1": same_pooled}
    return {"accuracy": hits[:, 0], "top5_accuracy": hits.any(axis=1), **recalls}


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Returns the accuracy of each class, float64 [C]; NaN for a class without test images."""
    totals = matrix.sum(axis=1)
    return np.where(totals > 0, np.diag(matrix) / np.maximum(totals, 1), np.nan)


def accuracies(tested: Tested, num_classes: int) -> dict[str, float]:
    """Returns top-1, top-5, mean over the classes that have test images, and mean cross-entropy; shares in [0, 1]."""
    matrix = confusion_counts(tested.labels, tested.ranked[:, 0], num_classes)
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "top5_accuracy": float(np.mean((tested.ranked == tested.labels[:, None]).any(axis=1))),
        "macro_accuracy": float(np.nanmean(class_accuracy(matrix))),
        "cross_entropy": float(np.mean(tested.cross_entropy, dtype=np.float64)),
    }


def nearest(embeddings: np.ndarray, count: int) -> np.ndarray:
    """Finds the nearest other items of each item by Euclidean distance, the lower number first among equals.

    Args:
      embeddings: float [N, d], N >= 2.
      count: number of neighbours; at most N - 1 are returned.
    Returns:
      int64 [N, min(count, N - 1)].
    """
    points = np.asarray(embeddings, np.float64)
    squares = np.einsum("nd,nd->n", points, points)
    count = min(count, len(points) - 1)
    neighbours = np.empty((len(points), count), np.int64)
    for start in range(0, len(points), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(points)))
        distances = squares[rows, None] + squares[None] - 2.0 * points[rows] @ points.T
        distances[np.arange(len(rows)), rows] = np.inf  # the item itself, by its number
        limits = np.partition(distances, count - 1, axis=1)[:, count - 1]
        for row, line, limit in zip(rows, distances, limits, strict=True):
            candidates = np.flatnonzero(line <= limit)  # ascending, so a stable sort settles ties
            neighbours[row] = candidates[np.argsort(line[candidates], kind="stable")][:count]
    return neighbours


def recall_at(labels: np.ndarray, neighbours: np.ndarray, ks: Sequence[int] = RECALLS) -> dict[str, float]:
    """Returns the share of items with one of their K nearest others in their own class, leave-one-out.

    Args:
      labels: int64 [N].
      neighbours: int64 [N, M] of `nearest`; a K above M counts as M.
    """
    hits = labels[neighbours] == labels[:, None]
    return {f"recall_at_{k}": float(np.mean(hits[:, :k].any(axis=1))) for k in ks}


def nmi(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Returns I(U;V) / ((H(U) + H(V)) / 2) between classes and k-means clusters, k = number of classes.

    scikit-learn's k-means++ with 10 restarts and a fixed seed, one thread: with more, sums come in another order.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    clusters = min(num_classes, len(np.unique(embeddings, axis=0)))
    with threadpool_limits(1):
        cluster = KMeans(clusters, n_init=KMEANS_RESTARTS, random_state=KMEANS_SEED).fit_predict(embeddings)
    return float(normalized_mutual_info_score(labels, cluster, average_method="arithmetic"))


def mean_distances(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the mean squared distances of pairs of one class and of two over the whole list, and their ratio.

    `embedding_ratio` is the distance across classes over that within; near 1 the embedding has collapsed. It is 0 if
    all points are equal.

    By sums, not by pairs: sum over i, j in S of |e_i - e_j|^2 = 2 |S| sum |e_i|^2 - 2 |sum e_i|^2.
    """
    points = np.asarray(embeddings, np.float64)

    def total(part: np.ndarray) -> float:
        return 2.0 * len(part) * float(np.sum(part**2)) - 2.0 * float(np.sum(part.sum(axis=0) ** 2))

    counts = np.bincount(labels)
    same = sum(total(points[labels == c]) for c in np.flatnonzero(counts))
    same_pairs = int(np.sum(counts * (counts - 1)))
    other_pairs = len(labels) ** 2 - int(np.sum(counts**2))
    within, across = same / max(same_pairs, 1), (total(points) - same) / max(other_pairs, 1)
    return {
        "positive_distance": within,
        "negative_distance": across,
        "embedding_ratio": max(across, 0.0) / max(within, TINY),
    }


def embedding_health(tested: Tested) -> dict[str, float]:
    """Returns what shows a collapse at a test during training: `embedding_ratio` and recall@1."""
    return {
        "embedding_ratio": mean_distances(tested.embeddings, tested.labels)["embedding_ratio"],
        **recall_at(tested.labels, nearest(tested.embeddings, 1), ks=(1,)),
    }


def largest_confusions(matrix: np.ndarray, names: Sequence[str], count: int = 10) -> list[dict[str, object]]:
    """Lists the largest entries off the diagonal, the lower class numbers first among equals."""
    off = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = [divmod(int(i), len(matrix)) for i in order]
    return [
        {"true": names[t], "predicted": names[p], "images": int(off[t, p]), "of": int(matrix[t].sum())}
        for t, p in pairs
        if off[t, p] > 0
    ]
