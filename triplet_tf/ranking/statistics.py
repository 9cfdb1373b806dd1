"""What makes a collapse visible in the log: mean distances and the share of active triplets of a batch."""

from __future__ import annotations

from triplet_tf.ranking.distances import pair_masks, squared_distances, tf
from triplet_tf.ranking.semi_hard import sorted_negatives


def batch_statistics(labels: tf.Tensor, embeddings: tf.Tensor, margin: float | str) -> dict[str, tf.Tensor]:
    """Mean squared distances of positive and negative pairs, and the share of all triplets that violate the margin.

    A collapsed embedding has both distances near 0 and every triplet active (under a hinge, a loss that stays at the
    margin); a finished one has few active triplets. O(B^2) memory.

    Args:
      labels: integers [B].
      embeddings: float [B, d].
      margin: m; the words of the batch-hard loss count as 0.
    Returns:
      positive_distance and negative_distance, scalars of the embeddings' type, 0 without such pairs; active_triplets,
      in [0, 1]: triplets (a, p, n) with D[a,p] + m > D[a,n], 0 without triplets.
    """
    distances = tf.stop_gradient(squared_distances(embeddings))
    positive, negative = pair_masks(labels)
    threshold = distances + (0.0 if isinstance(margin, str) else float(margin))
    nearer = tf.searchsorted(sorted_negatives(distances, negative), threshold, side="left")  # negatives below it
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
