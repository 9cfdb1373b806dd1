"""Batch-hard triplet loss (farthest positive, nearest negative of every anchor), and its adaptive-weight relative."""

from __future__ import annotations

from reproduction.runtime.tf import tf
from triplet_tf.ranking.distances import (
    NO_NEGATIVE,
    numeric_margin,
    pair_masks,
    row_counts,
    squared_distances,
    weighted_rows,
)


def batch_hard_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float | str, euclidean: bool = False
) -> tf.Tensor:
    """Mean over the anchors of max(d+ - d- + m, 0), or softplus(d+ - d-), or d+ - d-.

    d+ is 0 for an anchor without positives. Without negatives d- is 1e5 instead of infinity, so that nothing becomes
    NaN. The released code finds d- row by row; this is the same in a few B x B operations. Gradients of tied distances
    are shared equally.

    Args:
      labels: integers [B].
      embeddings: float32 or float64 [B, d].
      margin: a number m >= 0 for the hinge (0.2 as released), 'soft', or 'none', in any case.
      euclidean: d+ and d- are Euclidean distances, not their squares as released (STL-D23). The same images are chosen.
        A distance of 0 has gradient 0, as a squared one has.
    Returns:
      Scalar of the embeddings' type.
    Raises:
      ValueError: another word.
    Source: docs/papers/triplet.md, "Method".
    """
    distances = squared_distances(tf.stop_gradient(embeddings))
    positive, negative = pair_masks(labels)
    farthest = tf.reduce_max(tf.where(positive, distances, tf.zeros([], distances.dtype)), axis=1)
    nearest = tf.reduce_min(tf.where(negative, distances, tf.constant(NO_NEGATIVE, distances.dtype)), axis=1)
    weights = _shared(positive, distances, farthest, 1.0) + _shared(negative, distances, nearest, -1.0)
    alone = tf.cast(tf.logical_not(tf.reduce_any(negative, axis=1)), distances.dtype)
    if euclidean:  # DEVIATION STL-D23: sum of w sqrt(D) with the gradient w dD / (2 sqrt(D))
        rows = weighted_rows(tf.math.divide_no_nan(weights, tf.sqrt(distances)), distances, embeddings)
        difference = 0.5 * (rows + tf.stop_gradient(rows)) - NO_NEGATIVE * alone
    else:
        difference = weighted_rows(weights, distances, embeddings) - NO_NEGATIVE * alone
    word = margin.lower() if isinstance(margin, str) else None
    if word == "soft":
        return tf.reduce_mean(tf.nn.softplus(difference))
    if word == "none":
        return tf.reduce_mean(difference)
    if word is not None:
        raise ValueError(f"margin {margin!r}: the batch-hard loss takes a number, 'soft' or 'none'")
    return tf.reduce_mean(tf.maximum(difference + numeric_margin(margin, "batch-hard"), 0.0))


def _shared(mask: tf.Tensor, distances: tf.Tensor, extreme: tf.Tensor, weight: float) -> tf.Tensor:
    """`weight` for each anchor, shared by the masked images at exactly its extreme distance; 0 without any. [B, B]."""
    ties = tf.logical_and(mask, tf.equal(distances, extreme[:, None]))
    share = tf.math.divide_no_nan(tf.constant(weight, distances.dtype), row_counts(ties, distances.dtype))
    return tf.where(ties, share[:, None], tf.zeros([], distances.dtype))


def adaptive_weight_loss(labels: tf.Tensor, embeddings: tf.Tensor, margin: float) -> tf.Tensor:
    """Mean over the anchors of max(0, m + sum_p w_p D[a,p] - sum_n w_n D[a,n]).

    w_p = softmax(D[a,p]) over the positives of a, w_n = softmax(-D[a,n]) over its negatives, both without gradient: far
    positives and near negatives count most, none alone. Without positives the first sum is 0; without negatives the
    second is 1e5, as in the batch-hard loss.

    Args:
      labels: integers [B].
      embeddings: float32 or float64 [B, d].
      margin: m, a number.
    Returns:
      Scalar of the embeddings' type.
    Raises:
      ValueError: the margin is no number.
    Source: Ristani and Tomasi 2018; deviation STL-D04.
    """
    margin = numeric_margin(margin, "adaptive-weight")
    # DEVIATION STL-D04: the released code names this mode and has no loss for it; this one is ours
    distances = squared_distances(tf.stop_gradient(embeddings))
    positive, negative = pair_masks(labels)
    far, near = _softmax(distances, positive), _softmax(-distances, negative)
    weights = tf.where(positive, far, tf.where(negative, -near, tf.zeros([], distances.dtype)))
    alone = tf.cast(tf.logical_not(tf.reduce_any(negative, axis=1)), distances.dtype)
    difference = weighted_rows(weights, distances, embeddings) - NO_NEGATIVE * alone
    return tf.reduce_mean(tf.maximum(margin + difference, 0.0))


def _softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Softmax over the masked entries of each row; what stands in an empty row means nothing. [B, B]."""
    return tf.nn.softmax(tf.where(mask, scores, tf.constant(-NO_NEGATIVE, scores.dtype)))
