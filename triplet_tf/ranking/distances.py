"""Pairwise squared distances, positives and negatives: every loss starts from these. And what shows a collapse."""

from __future__ import annotations

from typing import Any

from reproduction.runtime.tf import tf

NO_NEGATIVE = 1e5  # stands for the distance to a negative that is not there; distances of unit vectors are at most 4


def squared_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """All squared Euclidean distances within a batch: max(|e_i|^2 + |e_j|^2 - 2 e_i.e_j, 0), diagonal exactly 0.

    No square root is taken, so no epsilon is needed; the gradient of a distance that is 0 is 0.

    Args:
      embeddings: float32 or float64 [B, d], usually of unit norm.
    Returns:
      Same type [B, B], >= 0.
    """
    norms = tf.reduce_sum(tf.square(embeddings), axis=1)
    products = tf.matmul(embeddings, embeddings, transpose_b=True)
    distances = tf.nn.relu(norms[:, None] + norms[None, :] - 2.0 * products)
    return tf.linalg.set_diag(distances, tf.zeros_like(norms))


def weighted_rows(weights: tf.Tensor, distances: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
    """Sum over j of w[a,j] D[a,j], for losses that are piecewise linear in the distances.

    The gradient treats the weights as constants. It is taken through the closed form
    sum_j w[a,j] (|e_a|^2 + |e_j|^2 - 2 e_a.e_j), so it keeps the weights and builds no other B x B matrix.

    Args:
      weights: float [B, B].
      distances: same type [B, B], `squared_distances(embeddings)`.
      embeddings: same type [B, d].
    Returns:
      Same type [B].
    """
    weights, distances = tf.stop_gradient(weights), tf.stop_gradient(distances)
    norms = tf.reduce_sum(tf.square(embeddings), axis=1)
    closed = tf.reduce_sum(weights, axis=1) * norms + tf.linalg.matvec(weights, norms)
    closed -= 2.0 * tf.reduce_sum(embeddings * tf.matmul(weights, embeddings), axis=1)
    value = tf.reduce_sum(weights * distances, axis=1)
    return value + (closed - tf.stop_gradient(closed))


def pair_masks(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns who is a positive and who a negative of each anchor.

    Args:
      labels: integers [B].
    Returns:
      (positive, negative), bool [B, B]: another image of the anchor's class; an image of another class.
    """
    same = tf.equal(labels[:, None], labels[None, :])
    return tf.linalg.set_diag(same, tf.zeros_like(labels, tf.bool)), tf.logical_not(same)


def row_counts(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Counts the set entries of each row; [B, B] bool to [B] of a float type."""
    return tf.reduce_sum(tf.cast(mask, dtype), axis=1)


def numeric_margin(margin: Any, loss: str) -> float:
    """Returns the margin as a number.

    Raises:
      ValueError: 'soft', 'none' or anything else that is no number; the batch-hard loss alone knows words.
    """
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise ValueError(f"margin {margin!r}: the {loss} loss needs a number ('soft' and 'none' are for batch-hard)")
    return float(margin)


def sorted_negatives(distances: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """Sorts the distances of each anchor to its negatives, ascending; the rest of the row is infinite. [B, B]."""
    return tf.sort(tf.where(negative, distances, tf.constant(float("inf"), distances.dtype)))


def batch_statistics(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float | str, euclidean: bool = False
) -> dict[str, tf.Tensor]:
    """Mean squared distances of positive and negative pairs, and the share of all triplets that violate the margin.

    A collapsed embedding has both distances near 0 and every triplet active (under a hinge, a loss that stays at the
    margin); a finished one has few active triplets. O(B^2) memory.

    Args:
      labels: integers [B].
      embeddings: float [B, d].
      margin: m; the words of the batch-hard loss count as 0.
      euclidean: triplets are compared by Euclidean distances, as the loss does then; the means stay squared ones.
    Returns:
      positive_distance and negative_distance, scalars of the embeddings' type, 0 without such pairs; active_triplets,
      in [0, 1]: triplets (a, p, n) with D[a,p] + m > D[a,n], 0 without triplets.
    """
    distances = tf.stop_gradient(squared_distances(embeddings))
    positive, negative = pair_masks(labels)
    compared = tf.sqrt(distances) if euclidean else distances
    threshold = compared + (0.0 if isinstance(margin, str) else float(margin))
    nearer = tf.searchsorted(sorted_negatives(compared, negative), threshold, side="left")  # negatives below it
    per_row = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    active, triplets = (
        tf.reduce_sum(tf.cast(tf.reduce_sum(tf.where(positive, count, 0), axis=1), tf.float64))
        for count in (nearer, per_row)
    )
    share = tf.math.divide_no_nan(active, triplets)
    return {
        "positive_distance": _masked_mean(distances, positive),
        "negative_distance": _masked_mean(distances, negative),
        "active_triplets": tf.cast(share, embeddings.dtype),
    }


def _masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(mask, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), tf.reduce_sum(weights))
