"""VGG16 without batch normalisation, as pretrained on ImageNet: convolutions and its own head.

Source: authors' train_fc_classifer_imagenet.py.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from class2str_tf.method.layers import conv, linear, pool
from datasets import DatasetError
from datasets.files import MOST_BYTES, reading
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf import tf, tf1

MEAN = (123.68, 116.779, 103.939)  # RGB, subtracted inside the graph as released
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in blocks 1 to 5: conv1_1 ... conv5_3
WEIGHTS = "vgg16_weights.npz"


def features(images: tf.Tensor, width: int = 64) -> tf.Tensor:
    """Convolutional part of VGG16, conv1_1 to pool5: 3x3 SAME + bias + ReLU, 2x2 maximum with SAME padding.

    Args:
      images: uint8 or float32 [B, H, W, 3], RGB, 0..255.
      width: channels of the first block; 64 is VGG16.
    Returns:
      float32 [B, F], named features; 25,088 of a 224x224 image. Variables conv1_1/{weights,biases} and so on.
    Source: authors' train_fc_classifer_imagenet.py; docs/papers/class2str.md.
    """
    x = tf.cast(images, tf.float32) - tf.constant(MEAN)
    for block, count in enumerate(CONVOLUTIONS, 1):
        for index in range(1, count + 1):
            x = tf.nn.relu(conv(x, width * min(2 ** (block - 1), 8), 3, f"conv{block}_{index}"))
        x = pool(x, "SAME", f"pool{block}")
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int = 1000, hidden: int = 4096) -> tf.Tensor:
    """VGG16's own head: fc6, ReLU, fc7, ReLU, fc8. float32 [B, F] -> logits [B, C]; no dropout: it is never trained.

    Source: docs/papers/class2str.md.
    """
    for name in ("fc6", "fc7"):
        x = tf.nn.relu(linear(x, hidden, name))
    return tf.identity(linear(x, num_classes, "fc8"), name="logits")


def network(images: tf.Tensor, num_classes: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Features and logits of a batch, variables under `cnn` and `classifier` as in stage 1 of the other data sets."""
    with tf1.variable_scope("cnn", reuse=tf1.AUTO_REUSE):
        outputs = features(images, width)
    with tf1.variable_scope("classifier", reuse=tf1.AUTO_REUSE):
        return outputs, classifier(outputs, num_classes, 64 * width)


def assign_weights(session: tf1.Session, path: Path) -> None:
    """Puts the arrays of vgg16_weights.npz into the variables below `cnn` and `classifier`.

    Args:
      session: on a graph of `network`.
      path: npz with conv1_1_W [3, 3, in, out], conv1_1_b [out], ..., fc8_W [in, out], fc8_b.
    Raises:
      DatasetError: damaged, with pickled objects, or unpacks to more than MOST_BYTES.
      UserError: an array is missing or has another shape than the network.
    """
    with reading(path):
        with zipfile.ZipFile(path) as packed:
            if sum(member.file_size for member in packed.infolist()) > MOST_BYTES:
                raise DatasetError(f"{shown(path)}: unpacks to more than {MOST_BYTES:,} bytes; another file, or a bomb")
        arrays = np.load(path, allow_pickle=False)  # reads an array when it is asked for
        names = set(arrays.files)
    for variable in tf1.trainable_variables("cnn/") + tf1.trainable_variables("classifier/"):
        layer, kind = variable.op.name.split("/")[-2:]
        name = f"{layer}_{'W' if kind == 'weights' else 'b'}"
        if name not in names:
            raise UserError(f"{shown(path)}: holds no array {name}; expected D. Frossard's {WEIGHTS}")
        with reading(path):
            array = np.asarray(arrays[name])  # a member that is no array comes as bytes
        if array.shape != tuple(variable.shape.as_list()) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(
                f"{shown(path)}: {name} is {array.dtype} {array.shape}, expected finite floats {variable.shape}; "
                "the images must have as many classes as the weights"
            )
        variable.load(array.astype(np.float32), session)
