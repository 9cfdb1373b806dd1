"""Pairwise squared distances and who is whose positive or negative; every loss starts from these."""

from __future__ import annotations

from typing import Any

from reproduction.runtime.tf_import import frameworks

tf1, slim = frameworks()
import tensorflow as tf  # noqa: E402 - after frameworks(), which sets what TensorFlow reads at import

NO_NEGATIVE = 1e5  # stands for the distance to a negative that is not there; distances of unit vectors are at most 4


def squared_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """All squared Euclidean distances within a batch: max(|e_i|^2 + |e_j|^2 - 2 e_i.e_j, 0), diagonal exactly 0.

    No square root is taken, so no epsilon is needed; the gradient of a distance that is 0 is 0.

    Args:
      embeddings: float32 or float64 [B, d], usually of unit norm.
    Returns:
      Same type [B, B], >= 0.
    Source: triplet.md section 1.3.
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
      weights: [B, B]. distances: `squared_distances(embeddings)`. embeddings: [B, d]. All of one float type.
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
    """Who is a positive and who a negative of each anchor.

    Args:
      labels: integers [B].
    Returns:
      (positive, negative), bool [B, B]: another image of the anchor's class; an image of another class.
    """
    same = tf.equal(labels[:, None], labels[None, :])
    return tf.linalg.set_diag(same, tf.zeros_like(labels, tf.bool)), tf.logical_not(same)


def row_counts(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """How many entries of each row are set; [B, B] bool to [B] of a float type."""
    return tf.reduce_sum(tf.cast(mask, dtype), axis=1)


def numeric_margin(margin: Any, loss: str) -> float:
    """The margin as a number.

    Raises:
      ValueError: 'soft', 'none' or anything else that is no number; the batch-hard loss alone knows words.
    """
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise ValueError(f"margin {margin!r}: the {loss} loss needs a number ('soft' and 'none' are for batch-hard)")
    return float(margin)
