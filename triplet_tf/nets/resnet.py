"""ResNet-50, versions 1 and 2, from tf_slim.nets."""

from __future__ import annotations

from typing import Any

from reproduction.runtime.tf import slim, tf
from triplet_tf.nets.layers import Settings, he_normal, linear_map, scope


def resnet_v2_50(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """ResNet-50 v2 (pre-activation). See `_resnet`."""
    from tf_slim.nets import resnet_v2

    return _resnet(resnet_v2.resnet_v2_50, "resnet_v2_50", images, settings)


def resnet_v1_50(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """ResNet-50 v1. See `_resnet`."""
    from tf_slim.nets import resnet_v1

    return _resnet(resnet_v1.resnet_v1_50, "resnet_v1_50", images, settings)


def _resnet(
    build: Any, name: str, images: tf.Tensor, settings: Settings
) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """The network up to its pooled features by tf-slim, the logits layer by us: tf-slim does not return the pooled.

    Args:
      build: tf-slim's function.
      name: variable scope.
      images: float32 [B, H, W, 3].
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 2048], end points by name without the scope.
    Source: tf_slim.nets.
    """
    from tf_slim.nets import resnet_utils

    arg_scope = resnet_utils.resnet_arg_scope(settings.weight_decay, batch_norm_decay=settings.bn_decay)
    with (
        slim.arg_scope(arg_scope),
        slim.arg_scope([slim.conv2d], weights_initializer=he_normal()),
        scope(name, settings.reuse) as opened,
    ):
        pooled, end_points = build(images, None, is_training=settings.training, scope=opened)
        logits = linear_map(pooled, settings.num_classes, "logits")
    return logits, pooled, {key.removeprefix(f"{name}/"): value for key, value in end_points.items()}
