"""Inception-V4 on tf-slim layers and Inception-V3 from tf_slim.nets, with the names of the public checkpoints.

Inception-V3 is an extension: the released configuration names it without a module.
"""

from __future__ import annotations

from typing import Any

from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf.nets.layers import Settings, flatten, global_pool, he_normal, layer_defaults, linear_map, scope

KEEP = 0.8

# One branch is a chain of (name, width, kernel); a name with "1a" in a reduction or in the stem has stride 2 and no
# padding, as has its pooling. Source: Szegedy et al. 2017, figures 3 to 8.
INCEPTION_A = (
    [("Conv2d_0a_1x1", 96, (1, 1))],
    [("Conv2d_0a_1x1", 64, (1, 1)), ("Conv2d_0b_3x3", 96, (3, 3))],
    [("Conv2d_0a_1x1", 64, (1, 1)), ("Conv2d_0b_3x3", 96, (3, 3)), ("Conv2d_0c_3x3", 96, (3, 3))],
    [("AvgPool_0a_3x3", 0, (3, 3)), ("Conv2d_0b_1x1", 96, (1, 1))],
)
REDUCTION_A = (
    [("Conv2d_1a_3x3", 384, (3, 3))],
    [("Conv2d_0a_1x1", 192, (1, 1)), ("Conv2d_0b_3x3", 224, (3, 3)), ("Conv2d_1a_3x3", 256, (3, 3))],
    [("MaxPool_1a_3x3", 0, (3, 3))],
)
INCEPTION_B = (
    [("Conv2d_0a_1x1", 384, (1, 1))],
    [("Conv2d_0a_1x1", 192, (1, 1)), ("Conv2d_0b_1x7", 224, (1, 7)), ("Conv2d_0c_7x1", 256, (7, 1))],
    [
        ("Conv2d_0a_1x1", 192, (1, 1)),
        ("Conv2d_0b_7x1", 192, (7, 1)),
        ("Conv2d_0c_1x7", 224, (1, 7)),
        ("Conv2d_0d_7x1", 224, (7, 1)),
        ("Conv2d_0e_1x7", 256, (1, 7)),
    ],
    [("AvgPool_0a_3x3", 0, (3, 3)), ("Conv2d_0b_1x1", 128, (1, 1))],
)
REDUCTION_B = (
    [("Conv2d_0a_1x1", 192, (1, 1)), ("Conv2d_1a_3x3", 192, (3, 3))],
    [
        ("Conv2d_0a_1x1", 256, (1, 1)),
        ("Conv2d_0b_1x7", 256, (1, 7)),
        ("Conv2d_0c_7x1", 320, (7, 1)),
        ("Conv2d_1a_3x3", 320, (3, 3)),
    ],
    [("MaxPool_1a_3x3", 0, (3, 3))],
)
INCEPTION_C = (  # the two inner branches end in a fork, see FORKS_C
    [("Conv2d_0a_1x1", 256, (1, 1))],
    [("Conv2d_0a_1x1", 384, (1, 1))],
    [("Conv2d_0a_1x1", 384, (1, 1)), ("Conv2d_0b_3x1", 448, (3, 1)), ("Conv2d_0c_1x3", 512, (1, 3))],
    [("AvgPool_0a_3x3", 0, (3, 3)), ("Conv2d_0b_1x1", 256, (1, 1))],
)
FORKS_C = {
    1: [("Conv2d_0b_1x3", 256, (1, 3)), ("Conv2d_0c_3x1", 256, (3, 1))],
    2: [("Conv2d_0d_1x3", 256, (1, 3)), ("Conv2d_0e_3x1", 256, (3, 1))],
}
STEM_3A = ([("MaxPool_0a_3x3", 0, (3, 3))], [("Conv2d_0a_3x3", 96, (3, 3))])  # both stride 2, no padding
STEM_4A = (  # stride 1; the last convolution of each branch without padding
    [("Conv2d_0a_1x1", 64, (1, 1)), ("Conv2d_1a_3x3", 96, (3, 3))],
    [
        ("Conv2d_0a_1x1", 64, (1, 1)),
        ("Conv2d_0b_1x7", 64, (1, 7)),
        ("Conv2d_0c_7x1", 64, (7, 1)),
        ("Conv2d_1a_3x3", 96, (3, 3)),
    ],
)
STEM_5A = ([("Conv2d_1a_3x3", 192, (3, 3))], [("MaxPool_1a_3x3", 0, (3, 3))])
BLOCKS = [
    ("Mixed_3a", STEM_3A, "0a", 2),
    ("Mixed_4a", STEM_4A, "1a", 1),
    ("Mixed_5a", STEM_5A, "1a", 2),
    *[(f"Mixed_5{letter}", INCEPTION_A, None, 1) for letter in "bcde"],
    ("Mixed_6a", REDUCTION_A, "1a", 2),
    *[(f"Mixed_6{letter}", INCEPTION_B, None, 1) for letter in "bcdefgh"],
    ("Mixed_7a", REDUCTION_B, "1a", 2),
    *[(f"Mixed_7{letter}", INCEPTION_C, None, 1) for letter in "bcd"],
]


def inception_v4(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """The stem, four A, seven B and three C blocks with two reductions between them, and two heads.

    Args:
      images: float32 [B, H, W, 3] in [-1, 1].
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 1536], end points by name, with the auxiliary logits (no loss
      is put on them, as released).
    Source: Szegedy et al. 2017.
    """
    end_points = {}
    with scope("InceptionV4", settings.reuse), layer_defaults(settings, 0.001, False, he_normal()):
        x = slim.conv2d(images, 32, [3, 3], stride=2, padding="VALID", scope="Conv2d_1a_3x3")
        x = slim.conv2d(x, 32, [3, 3], padding="VALID", scope="Conv2d_2a_3x3")
        x = slim.conv2d(x, 64, [3, 3], scope="Conv2d_2b_3x3")
        for name, branches, valid, stride in BLOCKS:
            with tf1.variable_scope(name):
                forks = FORKS_C if branches is INCEPTION_C else {}
                x = end_points[name] = _block(x, branches, forks, valid, stride)
        with tf1.variable_scope("AuxLogits"):
            aux = slim.avg_pool2d(end_points["Mixed_6h"], [5, 5], stride=3, padding="VALID", scope="AvgPool_1a_5x5")
            aux = slim.conv2d(aux, 128, [1, 1], scope="Conv2d_1b_1x1")
            aux = slim.conv2d(aux, 768, aux.shape[1:3], padding="VALID", scope="Conv2d_2a")
            end_points["AuxLogits"] = _linear(aux, settings.num_classes, "Aux_logits")
        with tf1.variable_scope("Logits"):
            pooled = global_pool(x, "AvgPool_1a")
            logits = _linear(settings.drop(pooled, KEEP), settings.num_classes, "Logits")
    return logits, pooled, end_points


def _block(x: tf.Tensor, branches: Any, forks: dict[int, Any], valid: str | None, stride: int) -> tf.Tensor:
    """Branches side by side, joined along the channels; layers with `valid` in their name take stride, no padding."""
    ends = []
    for index, chain in enumerate(branches):
        with tf1.variable_scope(f"Branch_{index}"):
            end = x
            for layer in chain:
                end = _layer(end, layer, valid, stride)
            fork = forks.get(index, [])
            ends.append(tf.concat([_layer(end, layer, valid, stride) for layer in fork], 3) if fork else end)
    return tf.concat(ends, 3)


def _layer(x: tf.Tensor, layer: tuple[str, int, tuple[int, int]], valid: str | None, stride: int) -> tf.Tensor:
    name, width, kernel = layer
    alone = valid is not None and valid in name and kernel == (3, 3)
    place = {"stride": stride if alone else 1, "padding": "VALID" if alone else "SAME", "scope": name}
    if name.startswith("AvgPool"):
        return slim.avg_pool2d(x, kernel, **place)
    if name.startswith("MaxPool"):
        return slim.max_pool2d(x, kernel, **place)
    return slim.conv2d(x, width, kernel, **place)


def _linear(x: tf.Tensor, width: int, name: str) -> tf.Tensor:
    return slim.fully_connected(flatten(x), width, activation_fn=None, scope=name)


def inception_v3(images: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """tf-slim's convolutional part; the two heads are ours, so that dropout needs no state.

    Args:
      images: float32 [B, H, W, 3] in [-1, 1].
      settings: see `Settings`.
    Returns:
      logits float32 [B, C], pooled float32 [B, 1, 1, 2048], end points by name, with the auxiliary logits (no loss
      is put on them).
    Source: Szegedy et al. 2016; tf_slim.nets.inception_v3.
    """
    from tf_slim.nets import inception

    with scope("InceptionV3", settings.reuse) as opened, layer_defaults(settings, 0.001, False, he_normal()):
        x, end_points = inception.inception_v3_base(images, scope=opened)
        with tf1.variable_scope("AuxLogits"):
            aux = slim.avg_pool2d(end_points["Mixed_6e"], [5, 5], stride=3, padding="VALID", scope="AvgPool_1a_5x5")
            aux = slim.conv2d(aux, 128, [1, 1], scope="Conv2d_1b_1x1")
            size = [min(5, side) for side in aux.shape[1:3]]
            aux = slim.conv2d(
                aux,
                768,
                size,
                padding="VALID",
                scope=f"Conv2d_2a_{size[0]}x{size[1]}",
                weights_initializer=tf1.truncated_normal_initializer(stddev=0.01),
            )
            with slim.arg_scope([slim.conv2d], weights_initializer=tf1.truncated_normal_initializer(stddev=0.001)):
                end_points["AuxLogits"] = linear_map(aux, settings.num_classes, "Conv2d_2b_1x1")
        with tf1.variable_scope("Logits"):
            pooled = global_pool(x, "AvgPool_1a")
            logits = linear_map(settings.drop(pooled, KEEP), settings.num_classes, "Conv2d_1c_1x1")
    return logits, pooled, end_points
