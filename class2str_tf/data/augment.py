"""Shift and flip of a whole batch inside the graph: a pure function of (seed, step), so a resumed run repeats it."""

from __future__ import annotations

from reproduction.runtime.tf import tf

SHIFT = 2  # pixels, to either side


def shift_and_flip(images: tf.Tensor, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Each image moved by up to SHIFT pixels, its border mirrored, and a random half of them flipped left to right.

    Args:
      images: uint8 or float32 [B, H, W, C].
      seed: of the run.
      step: int64 scalar.
    Returns:
      [B, H, W, C] of the same type.
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    key = tf.stack([tf.constant(seed, tf.int64), step])
    draws = tf.random.stateless_uniform([2, count, 1], key, 0, 2 * SHIFT + 1, tf.int32)
    draws = tf.cast(draws, tf.int64)  # on a GPU, sums of int32 would be taken by the host
    flip = tf.random.stateless_uniform([count, 1], key + 1, 0, 2, tf.int32) > 0
    columns = tf.range(width, dtype=tf.int64)[None]
    rows = tf.range(height, dtype=tf.int64)[None] + draws[0]
    columns = tf.where(flip, columns[:, ::-1], columns) + draws[1]
    border = [[0, 0], [SHIFT, SHIFT], [SHIFT, SHIFT], [0, 0]]
    moved = tf.gather(tf.pad(images, border, "REFLECT"), rows, axis=1, batch_dims=1)
    return tf.gather(moved, columns, axis=2, batch_dims=1)
