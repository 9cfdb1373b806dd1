"""Adaptive-weight triplet loss, `--train_mode hard_awtl`. The released code names it and has none: this one is ours."""

from __future__ import annotations

from triplet_tf.ranking.distances import NO_NEGATIVE, numeric_margin, pair_masks, squared_distances, tf, weighted_rows


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
    Source: deviation STL-D04 (triplet.md section 6, D4); ours, after Ristani and Tomasi 2018.
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
