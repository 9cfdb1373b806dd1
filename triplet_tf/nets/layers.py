"""What the backbones share: initial values by variable name, batch normalisation, dropout without state."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from reproduction.runtime.tf import slim, tf, tf1

# in a graph == of variables is identity anyway; not asking which mode it is each time builds a third faster
tf1.disable_tensor_equality()

Activation = Callable[[Any], Any] | None


class Settings(NamedTuple):
    """How a backbone is built.

    Attributes:
      num_classes: C of the logits.
      training: batch statistics, dropout and statistics updates, or moving statistics.
      reuse: the variables are there already.
      bn_decay: of the moving statistics.
      weight_decay: value of the collected L2 terms.
      drop: dropout in training (x, keep probability) -> x; the identity otherwise.
    """

    num_classes: int
    training: bool
    reuse: bool | None
    bn_decay: float
    weight_decay: float
    drop: Callable[[Any, float], Any]


def name_seed(name: str) -> int:
    """Seed of a variable's initial value: with the graph's seed, its name alone decides it, not what else is built."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def he_normal() -> Any:
    """slim's `variance_scaling_initializer()`, whose truncated normal has variance 1.3 * 2 / fan_in before the cut."""
    return tf1.variance_scaling_initializer(scale=2 * 1.3 * 0.87962566103423978**2, mode="fan_in")


def xavier_uniform() -> Any:
    """slim's `xavier_initializer()`: uniform within sqrt(6 / (fan_in + fan_out))."""
    return tf1.glorot_uniform_initializer()


def _seeded(getter: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
    """Gives every random initial value the seed of its variable's name."""
    initializer: Any = kwargs.get("initializer")
    if getattr(initializer, "seed", 0) is None:
        config = {**initializer.get_config(), "seed": name_seed(name)}
        kwargs["initializer"] = type(initializer).from_config(config)
    return getter(name, *args, **kwargs)


def scope(name: str, reuse: bool | None) -> Any:
    """The variable scope of a backbone; initial values in it depend on the graph's seed and on names alone."""
    return tf1.variable_scope(name, reuse=reuse, custom_getter=_seeded)


@contextlib.contextmanager
def layer_defaults(
    settings: Settings, epsilon: float, scale: bool, initializer: Any, activation: Activation = tf.nn.relu
) -> Iterator[None]:
    """slim convolutions with batch normalisation, activation and a collected L2 term; pooling and BN alike.

    Args:
      settings: decay of the statistics, value of the L2 terms, training or not.
      epsilon: of batch normalisation.
      scale: batch normalisation has a gamma.
      initializer: of the convolutions' weights.
      activation: after the normalisation.
    """
    norm = {
        "decay": settings.bn_decay,
        "epsilon": epsilon,
        "scale": scale,
        "is_training": settings.training,
        "updates_collections": tf1.GraphKeys.UPDATE_OPS,
    }
    decay = slim.l2_regularizer(settings.weight_decay)
    with (
        slim.arg_scope([slim.batch_norm], **norm),
        slim.arg_scope(
            [slim.conv2d],
            weights_regularizer=decay,
            weights_initializer=initializer,
            activation_fn=activation,
            normalizer_fn=slim.batch_norm,
            normalizer_params=norm,
        ),
        slim.arg_scope([slim.fully_connected], weights_regularizer=decay, weights_initializer=xavier_uniform()),
    ):
        yield


def linear_map(x: tf.Tensor, width: int, name: str) -> tf.Tensor:
    """1x1 convolution with bias, without normalisation or activation; the spatial axes of a 1x1 map are squeezed."""
    zeros = tf1.zeros_initializer()
    x = slim.conv2d(x, width, [1, 1], activation_fn=None, normalizer_fn=None, biases_initializer=zeros, scope=name)
    return tf.squeeze(x, [1, 2])


def flatten(x: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, H*W*C]; H, W and C known."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])


def global_pool(x: tf.Tensor, name: str) -> tf.Tensor:
    """Mean over height and width. float32 [B, H, W, C] -> [B, 1, 1, C]."""
    return tf.reduce_mean(x, [1, 2], keepdims=True, name=name)


def dropout(x: tf.Tensor, keep: float, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Keeps each value with probability `keep`, scaled by 1/keep; a pure function of (seed, step).

    The released networks draw from an operation with a state of its own, which a checkpoint does not hold.
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.nn.experimental.stateless_dropout(x, rate=1.0 - keep, seed=key)
