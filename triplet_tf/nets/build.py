"""`backbone`: a network of the table by its name, as (logits, map for the embedding head, pooled features)."""

from __future__ import annotations

from reproduction.runtime.run_folder import UserError
from triplet_tf.nets.densenet import densenet161
from triplet_tf.nets.inception_v3 import inception_v3
from triplet_tf.nets.inception_v4 import inception_v4
from triplet_tf.nets.layers import Settings, dropout, tf, tf1
from triplet_tf.nets.mobilenet import mobilenet_v1
from triplet_tf.nets.resnet import resnet_v1_50, resnet_v2_50
from triplet_tf.nets.table import TABLE

BUILDERS = {
    "resnet50": resnet_v2_50,
    "resnet50_v1": resnet_v1_50,
    "inc4": inception_v4,
    "inc3": inception_v3,
    "densenet161": densenet161,
    "mobile": mobilenet_v1,
}


def backbone(
    net: str,
    images: tf.Tensor,
    num_classes: int,
    is_training: bool,
    reuse: bool | None = None,
    *,
    bn_decay: float | None = None,
    weight_decay: float | None = None,
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
      weight_decay: value of the collected L2 terms; None is the table's.
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
        known.weight_decay if weight_decay is None else weight_decay,
        drop,
    )
    logits, pooled, found = BUILDERS[net](images, settings)
    name = tap or known.tap
    if name not in found or found[name].shape.ndims != 4:
        maps = ", ".join(sorted(key for key, value in found.items() if value.shape.ndims == 4))
        raise UserError(f"--tap {name}: --net {net} has no such map; choose one of {maps}")
    return logits, found[name], tf.squeeze(pooled, [1, 2])
