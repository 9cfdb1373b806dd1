"""The two heads on one network: `backbone` gives logits and a map, `embedding_head` an embedding of that map."""

from __future__ import annotations

from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.config.networks import TABLE
from triplet_tf.nets import densenet, inception, mobilenet, resnet
from triplet_tf.nets.layers import Settings, dropout, flatten, name_seed

EPSILON = 1e-10  # lower bound of the squared norm of an embedding
BUILDERS = {
    "resnet50": resnet.resnet_v2_50,
    "resnet50_v1": resnet.resnet_v1_50,
    "inc4": inception.inception_v4,
    "inc3": inception.inception_v3,
    "densenet161": densenet.densenet161,
    "mobile": mobilenet.mobilenet_v1,
}


def backbone(
    net: str,
    images: tf.Tensor,
    num_classes: int,
    is_training: bool,
    reuse: bool | None = None,
    *,
    bn_decay: float | None = None,
    tap: str | None = None,
    seed: int = 0,
    step: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Builds one copy of a network in the current graph; moving statistics are updated by UPDATE_OPS.

    Args:
      net: a key of `TABLE`.
      images: float32 [B, H, W, 3], preprocessed as the table says; H and W known.
      num_classes: C.
      is_training: batch statistics and dropout, or moving statistics.
      reuse: True for the second copy on the same variables.
      bn_decay: of the moving statistics; None is the table's.
      tap: end point for the embedding head; None is the table's.
      seed: of dropout.
      step: integer scalar, another value for every forward pass in training; None is the global step. Dropout is a
        pure function of (seed, step).
    Returns:
      logits float32 [B, C]; feature map float32 [B, h, w, c]; globally pooled last features float32 [B, c'].
    Raises:
      UserError: the frame is too small for the network, or it has no such end point.
      KeyError: no such net.
    """
    known = TABLE[net]
    sides = images.shape.as_list()[1:3]
    if min(sides) < known.smallest:
        raise UserError(f"--frame_size {min(sides)}: --net {net} needs at least {known.smallest}")

    def drop(x: tf.Tensor, keep: float) -> tf.Tensor:
        if not is_training:
            return x
        return dropout(x, keep, seed, tf1.train.get_global_step() if step is None else step)

    settings = Settings(
        num_classes,
        is_training,
        reuse,
        known.bn_decay if bn_decay is None else bn_decay,
        known.weight_decay,
        drop,
    )
    logits, pooled, end_points = BUILDERS[net](images, settings)
    name = tap or known.tap
    if name not in end_points or end_points[name].shape.ndims != 4:
        maps = ", ".join(sorted(key for key, value in end_points.items() if value.shape.ndims == 4))
        raise UserError(f"--tap {name}: --net {net} has no such map; choose one of {maps}")
    return logits, end_points[name], tf.squeeze(pooled, [1, 2])


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
    Source: figure of the architecture in the README of the authors' repository; docs/papers/triplet.md, "Method".
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
