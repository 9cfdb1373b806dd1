"""DenseNet-161 on tf-slim layers, with the names of the public TensorFlow checkpoint."""

from __future__ import annotations

from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.nets.layers import Settings, global_pool, layer_defaults, linear_map, scope, xavier_uniform

GROWTH = 48
STEM = 96
LAYERS = (6, 12, 36, 24)
REDUCTION = 0.5


def densenet161(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """Dense blocks of 1x1 and 3x3 convolutions (BN, ReLU, convolution), halved in width and size between blocks.

    Args:
      images: float32 [B, H, W, 3], normalised by channel.
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 2208] after the last BN and ReLU, end points by name;
      `dense_block4` is the map before that BN.
    Source: Huang et al. 2017, table 1.
    """
    end_points = {}
    with (
        scope("densenet161", settings.reuse),
        layer_defaults(settings, 1e-5, True, xavier_uniform()),
        slim.arg_scope([slim.conv2d], activation_fn=None, normalizer_fn=None, biases_initializer=None),
        slim.arg_scope([slim.batch_norm], activation_fn=tf.nn.relu),
    ):
        x = slim.conv2d(images, STEM, [7, 7], stride=2, scope="conv1")
        x = slim.max_pool2d(slim.batch_norm(x, scope="BatchNorm"), [3, 3], stride=2, padding="SAME", scope="pool1")
        for block, layers in enumerate(LAYERS, 1):
            name = f"dense_block{block}"
            with tf1.variable_scope(name):
                for layer in range(1, layers + 1):
                    with tf1.variable_scope(f"conv_block{layer}"):
                        narrow = _norm_conv(x, 4 * GROWTH, 1, "x1")
                        x = tf.concat([x, _norm_conv(narrow, GROWTH, 3, "x2")], axis=3)
            end_points[name] = x
            if block < len(LAYERS):
                with tf1.variable_scope(f"transition_block{block}"):
                    x = _norm_conv(x, int(x.shape[3] * REDUCTION), 1, "blk")
                    x = slim.avg_pool2d(x, [2, 2], stride=2, padding="VALID")
        with tf1.variable_scope("final_block"):
            x = slim.batch_norm(x, scope="BatchNorm")
        pooled = global_pool(x, "global_avg_pool")
        logits = linear_map(pooled, settings.num_classes, "logits")
    return logits, pooled, end_points


def _norm_conv(x: tf.Tensor, width: int, size: int, name: str) -> tf.Tensor:
    """BN, ReLU, convolution without bias, in a scope of their own."""
    with tf1.variable_scope(name):
        return slim.conv2d(slim.batch_norm(x, scope="BatchNorm"), width, [size, size], scope="Conv")
