"""Layers with the initial values of the authors' lib.py: weights truncated normal 0.1, biases 0.1."""

from __future__ import annotations

import zlib
from typing import Any

from reproduction.runtime.tf import slim, tf, tf1


def name_seed(scope: str) -> int:
    """Seed of a variable's initial value: with the graph's seed, its name alone decides it, not what else is built."""
    return zlib.crc32(f"{tf1.get_variable_scope().name}/{scope}".encode()) & 0x7FFFFFFF


def _initial(scope: str) -> dict[str, Any]:
    return {
        "weights_initializer": tf1.truncated_normal_initializer(stddev=0.1, seed=name_seed(scope)),
        "biases_initializer": tf1.constant_initializer(0.1),
        "activation_fn": None,
    }


def conv(x: tf.Tensor, width: int, size: int, scope: str) -> tf.Tensor:
    """Convolution with bias, SAME, stride 1, no activation. float32 [B, H, W, n] -> [B, H, W, width]."""
    return slim.conv2d(x, width, [size, size], scope=scope, **_initial(scope))


def linear(x: tf.Tensor, width: int, scope: str) -> tf.Tensor:
    """Affine map. float32 [B, n] -> [B, width]."""
    return slim.fully_connected(x, width, scope=scope, **_initial(scope))


def batch_norm(x: tf.Tensor, training: bool, scope: str) -> tf.Tensor:
    """Batch normalisation, decay 0.9, scale and centre, epsilon 0.001; statistics updated with the step.

    slim collects the updates in UPDATE_OPS; the loops run them together with the optimizer.
    """
    return slim.batch_norm(x, decay=0.9, center=True, scale=True, epsilon=0.001, is_training=training, scope=scope)


def pool(x: tf.Tensor, padding: str, scope: str) -> tf.Tensor:
    """2x2 maximum with stride 2."""
    return slim.max_pool2d(x, [2, 2], stride=2, padding=padding, scope=scope)


def dropout(x: tf.Tensor, keep: float, training: bool, seed: int, layer: int) -> tf.Tensor:
    """Keeps each value with probability `keep`, scaled by 1/keep; a pure function of (seed, global step, layer)."""
    if not training or keep == 1.0:
        return x
    step = tf.cast(tf1.train.get_global_step(), tf.int64)
    key = tf.stack([tf.constant(seed * 64 + layer, tf.int64), step])
    return tf.nn.experimental.stateless_dropout(x, rate=1.0 - keep, seed=key)


def count_parameters(scope: str, weights_only: bool = False) -> int:
    """Trainable parameters below a variable scope of the current graph; `weights_only` counts as the poster does."""
    variables = tf1.get_collection(tf1.GraphKeys.TRAINABLE_VARIABLES, scope=scope + "/")
    if weights_only:
        variables = [v for v in variables if v.op.name.rsplit("/", 1)[-1] in ("weights", "kernel")]
    return sum(v.shape.num_elements() for v in variables)
