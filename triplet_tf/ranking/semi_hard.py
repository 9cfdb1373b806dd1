"""Semi-hard triplet loss: tf-slim's for small batches, the same in O(B^2) memory for large ones."""

from __future__ import annotations

from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.ranking.distances import numeric_margin, pair_masks, sorted_negatives, squared_distances, weighted_rows

SLIM_LIMIT = 64  # tf-slim tiles B x B to B^2 x B several times over: 1 MiB each at 64, 4 GiB each at 1024


def semi_hard_loss(labels: tf.Tensor, embeddings: tf.Tensor, margin: float, limit: int = SLIM_LIMIT) -> tf.Tensor:
    """FaceNet-style loss over all ordered positive pairs (a, p), with the nearest negative farther than p.

    Mean over the pairs of max(0, m + D[a,p] - d), d = the smallest D[a,n] > D[a,p] over the negatives n of a, or the
    largest D[a,n] where no negative is farther than p. A batch without positive pairs has loss and gradient 0
    (tf-slim alone gives NaN).

    Args:
      labels: integers [B].
      embeddings: float32 or float64 [B, d].
      margin: m, a number.
      limit: batches of at most this many float32 embeddings go through tf-slim as in the released code; larger ones,
        those of unknown size and float64 through `sorted_semi_hard_loss`, which is the same function.
    Returns:
      Scalar of the embeddings' type.
    Raises:
      ValueError: the margin is no number (STL-D10).
    Source: docs/papers/triplet.md, "Method".
    """
    margin = numeric_margin(margin, "semi-hard")
    size = embeddings.shape[0]
    if size is None or size > limit or embeddings.dtype != tf.float32:
        return sorted_semi_hard_loss(labels, embeddings, margin)
    return tf1.cond(
        tf.reduce_any(pair_masks(labels)[0]),
        lambda: slim.losses.metric_learning.triplet_semihard_loss(labels, embeddings, margin),
        lambda: tf.zeros([], embeddings.dtype),
    )


def sorted_semi_hard_loss(labels: tf.Tensor, embeddings: tf.Tensor, margin: float) -> tf.Tensor:
    """`semi_hard_loss` with a sort of every row instead of all triplets: O(B^2) memory, O(B^2 log B) time.

    The loss is piecewise linear in the distances. Where a pair is active (hinge not 0) its coefficient on D[a,p] is
    1/P, and -1/P on the negative it selects, shared equally where several negatives lie at exactly that distance.
    With these coefficients as constants, loss = (m * active pairs)/P + sum of coefficient * D has the value and the
    gradient of the definition. In a batch of one class the loss compares with 0, as tf-slim does. Only one case
    differs from tf-slim: where the selected negative is the farthest image of the row and a positive lies at exactly
    that distance, tf-slim lets the positive share in the gradient.

    Args:
      labels: integers [B].
      embeddings: float32 or float64 [B, d].
      margin: m.
    Returns:
      Scalar of the embeddings' type.
    """
    distances = squared_distances(tf.stop_gradient(embeddings))
    positive, negative = pair_masks(labels)
    negatives = sorted_negatives(distances, negative)
    per_row = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)  # negatives of each anchor [B, 1]

    # how many negatives of the anchor lie nearer than each image, and how many not farther
    nearer = tf.searchsorted(negatives, distances, side="left")
    not_farther = tf.searchsorted(negatives, distances, side="right")
    farthest = tf.reduce_max(tf.where(negative, distances, tf.zeros([], distances.dtype)), axis=1, keepdims=True)
    place = tf.where(not_farther < per_row, not_farther, tf.searchsorted(negatives, farthest, side="left"))
    selected = tf.where(not_farther < per_row, tf.gather(negatives, place, batch_dims=1), farthest)
    active = tf.logical_and(positive, margin + distances - selected >= 0.0)
    counted = tf.cast(active, distances.dtype)

    # from pairs to negatives: pairs are counted at the first place of the distance they select in the sorted row
    size = tf.shape(distances)[0]
    rows = tf.range(size)[:, None] * size
    at_place = tf.math.unsorted_segment_sum(tf.reshape(counted, [-1]), tf.reshape(rows + place, [-1]), size * size)
    share = tf.gather(at_place, rows + tf.minimum(nearer, size - 1)) / tf.cast(not_farther - nearer, distances.dtype)
    weights = tf.where(negative, counted - share, counted)

    pairs = tf.reduce_sum(tf.cast(positive, distances.dtype))
    total = margin * tf.reduce_sum(counted) + tf.reduce_sum(weighted_rows(weights, distances, embeddings))
    return tf.math.divide_no_nan(total, pairs)
