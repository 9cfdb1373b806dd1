"""Inception-V3 from tf_slim.nets: an extension, since the released configuration names it without a module."""

from __future__ import annotations

from triplet_tf.nets.layers import Settings, global_pool, he_normal, layer_defaults, linear_map, scope, slim, tf, tf1

KEEP = 0.8


def inception_v3(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """tf-slim's convolutional part; the two heads are ours, so that dropout needs no state.

    Args:
      images: float32 [B, H, W, 3] in [-1, 1].
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 2048], end points by name, with the auxiliary logits (no loss
      is put on them).
    Source: Szegedy et al. 2016; tf_slim.nets.inception_v3; triplet.md 3.4.
    """
    from tf_slim.nets import inception

    with scope("InceptionV3", settings.reuse) as opened, layer_defaults(settings, 0.001, False, he_normal()):
        x, found = inception.inception_v3_base(images, scope=opened)
        with tf1.variable_scope("AuxLogits"):
            aux = slim.avg_pool2d(found["Mixed_6e"], [5, 5], stride=3, padding="VALID", scope="AvgPool_1a_5x5")
            aux = slim.conv2d(aux, 128, [1, 1], scope="Conv2d_1b_1x1")
            size = [min(5, side) for side in aux.shape[1:3]]
            aux = slim.conv2d(
                aux, 768, size, padding="VALID", scope=f"Conv2d_2a_{size[0]}x{size[1]}",
                weights_initializer=tf1.truncated_normal_initializer(stddev=0.01),
            )  # fmt: skip
            with slim.arg_scope([slim.conv2d], weights_initializer=tf1.truncated_normal_initializer(stddev=0.001)):
                found["AuxLogits"] = linear_map(aux, settings.num_classes, "Conv2d_2b_1x1")
        with tf1.variable_scope("Logits"):
            pooled = global_pool(x, "AvgPool_1a")
            logits = linear_map(settings.drop(pooled, KEEP), settings.num_classes, "Conv2d_1c_1x1")
    return logits, pooled, found
