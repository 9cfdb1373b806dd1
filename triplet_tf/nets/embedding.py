"""The embedding head: the map flattened, one linear layer, unit length."""

from __future__ import annotations

from triplet_tf.nets.layers import flatten, name_seed, slim, tf, tf1

EPSILON = 1e-10  # lower bound of the squared norm


def embedding_head(feature_map: tf.Tensor, emb_dim: int, reuse: bool | None = None) -> tf.Tensor:
    """e = z / |z| with z = flatten(map) W + b: no pooling, which keeps the layout, no activation, no normalisation.

    W (Glorot uniform) and b (zeros) are plain variables at the top level. An L2 term of W of weight 1.0 stands in
    REGULARIZATION_LOSSES, as released, and must never be added to a loss (STL-D02).

    Args:
      feature_map: float32 [B, H, W, C]; H, W and C known, so W fits one frame size only.
      emb_dim: d.
      reuse: True to apply the same W and b to another map.
    Returns:
      float32 [B, d], rows of length 1 (0 where z is 0).
    Source: triplet.md section 1.1.
    """
    flat = flatten(feature_map)
    width = flat.shape[1]
    with tf1.variable_scope(tf1.get_variable_scope(), reuse=reuse):
        weights = tf1.get_variable(
            "W",
            [width, emb_dim],
            initializer=tf1.glorot_uniform_initializer(seed=name_seed("W")),
            regularizer=slim.l2_regularizer(1.0),
        )
        biases = tf1.get_variable("b", [emb_dim], initializer=tf1.zeros_initializer())
    return tf.nn.l2_normalize(tf.matmul(flat, weights) + biases, axis=1, epsilon=EPSILON)
