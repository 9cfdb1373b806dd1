"""VGG with six convolutions that pools early: CIFAR-10 in minutes on one core (profile `matched`).

Half of the work of a VGG lies in its first blocks, where images are large; here thin convolutions see them. Two things
make it learn in a few epochs: fixed filters in front whiten patches of 2x2 pixels, and the convolutions start near the
identity. Both are known from the public speed records on CIFAR-10 (D. Page 2019, K. Jordan 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from class2str_tf.method.layers import batch_norm, linear, name_seed, pool
from reproduction.runtime.tf import slim, tf, tf1

PATCHES = 5000  # images whose patches are whitened
FLOOR = 5e-4  # added to the variances: directions without any stay small


def features(x: tf.Tensor, training: bool, width: int = 64) -> tf.Tensor:
    """Convolutional part: fixed whitening, then three blocks that pool after the first of their two convolutions.

    Batch normalisation and ReLU as in VGG16; no dropout, the schedule is too short to over-fit.

    Args:
      x: float32 [B, H, W, channels].
      training: batch statistics or moving statistics.
      width: `--F`; the widths of the blocks are 3F/8, 3F/4, 2F: 24, 48, 128 at 64.
    Returns:
      float32 [B, F], named cnn/features; 512 features of a 32x32 image at width 64, as the paper's VGG16.
    """
    channels = x.shape[3]
    filters = tf1.get_variable(
        "whiten/filters", [2, 2, channels, 8 * channels], initializer=tf1.zeros_initializer(), trainable=False
    )
    x = tf.nn.relu(tf.nn.conv2d(x, filters, 1, "VALID"))
    for block, eighths in enumerate((3, 6, 16), 1):
        channels = max(1, width * eighths // 8)
        x = pool(_conv(x, channels, f"conv{block}_1"), "VALID", f"pool{block}")
        x = tf.nn.relu(batch_norm(x, training, f"conv{block}_1_bn"))
        x = tf.nn.relu(batch_norm(_conv(x, channels, f"conv{block}_2"), training, f"conv{block}_2_bn"))
    x = pool(x, "SAME", "pool4")
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int, training: bool) -> tf.Tensor:
    """FC classifier of VGG16 without its dropout: 1024, BN, ReLU twice, C. float32 [B, F] -> logits [B, C]."""
    for index in (1, 2):
        x = tf.nn.relu(batch_norm(linear(x, 1024, f"fc{index}"), training, f"fc{index}_bn"))
    return tf.identity(linear(x, num_classes, "fc3"), name="logits")


def whitening(images: np.ndarray) -> np.ndarray:
    """Filters whose outputs over the patches of these images are uncorrelated and of variance 1, and their negatives.

    Args:
      images: float32 [N, H, W, C], scaled as the network gets them.
    Returns:
      float32 [2, 2, C, 8C].
    """
    corners = [images[:, i : images.shape[1] - 1 + i, j : images.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)]
    patches = np.stack(corners, axis=3).reshape(-1, 4 * images.shape[3])  # [n, row, column, channel] in this order
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = directions[:, ::-1] / np.sqrt(variances[::-1] + FLOOR)
    return np.concatenate([filters, -filters], axis=1).reshape(2, 2, images.shape[3], -1).astype(np.float32)


def _conv(x: tf.Tensor, width: int, scope: str) -> tf.Tensor:
    """3x3, SAME, without bias: batch normalisation has one. float32 [B, H, W, n] -> [B, H, W, width]."""
    start = _near_identity(scope)
    return slim.conv2d(
        x, width, [3, 3], scope=scope, activation_fn=None, biases_initializer=None, weights_initializer=start
    )


def _near_identity(scope: str) -> Callable[..., Any]:
    """Initial filters: the first ones hand their input on, the others are uniform up to 1 / sqrt of their inputs."""
    seed = name_seed(scope)

    def values(shape: Any, dtype: Any = tf.float32, partition_info: Any = None) -> tf.Tensor:
        size, _, inputs, outputs = shape
        limit = (size * size * inputs) ** -0.5
        others = tf1.random_uniform_initializer(-limit, limit, seed=seed)(shape, dtype)
        identity = np.zeros(shape, np.float32)
        for channel in range(min(inputs, outputs)):
            identity[size // 2, size // 2, channel, channel] = 1
        return tf.where(np.arange(outputs) < inputs, tf.constant(identity), others)

    return values
