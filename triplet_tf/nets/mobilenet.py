"""MobileNet-V1 (depth multiplier 1) on tf-slim layers, with the names of the public checkpoint."""

from __future__ import annotations

from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.nets.layers import Settings, global_pool, layer_defaults, linear_map, scope

DEPTHS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
HALVING = (2, 4, 6, 12)  # layers whose depthwise convolution has stride 2
KEEP = 0.999


def mobilenet_v1(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """Depthwise 3x3 and pointwise 1x1 convolutions in turn, each with batch normalisation and ReLU6.

    Args:
      images: float32 [B, H, W, 3] in [-1, 1].
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 1024], end points by name.
    Source: Howard et al. 2017, table 1.
    """
    normal = tf1.truncated_normal_initializer(stddev=0.09)
    end_points = {}
    with (
        scope("MobilenetV1", settings.reuse),
        layer_defaults(settings, 0.001, True, normal, tf.nn.relu6),
        slim.arg_scope([slim.conv2d, slim.separable_conv2d], padding="SAME"),
    ):
        x = slim.conv2d(images, 32, [3, 3], stride=2, scope="Conv2d_0")
        for layer, depth in enumerate(DEPTHS, 1):
            stride = 2 if layer in HALVING else 1
            name = f"Conv2d_{layer}_depthwise"
            x = end_points[name] = slim.separable_conv2d(
                x,
                None,
                [3, 3],
                1,
                stride=stride,
                scope=name,
                activation_fn=tf.nn.relu6,
                normalizer_fn=slim.batch_norm,
                weights_initializer=normal,
            )
            name = f"Conv2d_{layer}_pointwise"
            x = end_points[name] = slim.conv2d(x, depth, [1, 1], scope=name)
        with tf1.variable_scope("Logits"):
            pooled = global_pool(x, "AvgPool_1a")
            logits = linear_map(settings.drop(pooled, KEEP), settings.num_classes, "Conv2d_1c_1x1")
    return logits, pooled, end_points
