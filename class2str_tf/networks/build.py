"""The stage-1 network of a configuration: convolutional part under `cnn`, FC classifier under `classifier`."""

from __future__ import annotations

from typing import Any

import numpy as np

import datasets
from class2str_tf.flags import Config
from class2str_tf.method.layers import linear
from class2str_tf.networks import early, lenet, vgg16
from reproduction.runtime.tf import tf, tf1

WEIGHT_DECAY = 0.001  # delta of the poster; stage 1, and stage 2 where the CNN is fine-tuned


def weight_decay(config: Config) -> float:
    """Factor of the L2 penalty on CNN and FC classifiers: --weight-decay, or the poster's delta if it is not given."""
    return WEIGHT_DECAY if config.weight_decay is None else config.weight_decay


def image_input(images: tf.Tensor, pixels: str) -> tf.Tensor:
    """uint8 [B, H, W, C] -> float32: 0-255 as the authors feed CIFAR (`raw`), [0, 1] as MNIST (`unit`), or `centred`.

    Deviation C2S-D26: other scalings only behind --pixels.
    """
    return _scaled(tf.cast(images, tf.float32), pixels)


def _scaled(x: Any, pixels: str) -> Any:
    """`image_input` of a float32 array or tensor."""
    if pixels == "centred":
        return (x - 120.0) / 64.0
    return x / 255.0 if pixels == "unit" else x


def whiten(session: tf1.Session, images: np.ndarray, config: Config) -> None:
    """Sets the filters of `--model early` that are not trained, from the training images uint8 [N, H, W, C]."""
    [filters] = tf1.global_variables("cnn/whiten/")
    some = datasets.sample(images, early.PATCHES, config.dataset).astype(np.float32)
    filters.load(early.whitening(_scaled(some, config.pixels)), session)


def cnn(images: tf.Tensor, config: Config, training: bool, dropout: bool = True) -> tf.Tensor:
    """Features of a batch; variables are shared between calls.

    Args:
      images: uint8 [B, H, W, C].
      config: architecture flags.
      training: batch statistics and dropout, or moving statistics and no dropout.
      dropout: False leaves dropout out in training too.
    Returns:
      float32 [B, F].
    """
    x = image_input(images, config.pixels)
    with tf1.variable_scope("cnn", reuse=tf1.AUTO_REUSE):
        if config.dataset == "imagenet":
            from class2str_tf.networks import vgg16_imagenet

            return vgg16_imagenet.features(images, config.F)
        if config.model == "lenet":
            return lenet.features(x, training, config.lenet == "poster")
        if config.model == "early":
            return early.features(x, training, config.F)
        pools = 5 if config.features == "paper512" else 3
        return vgg16.features(x, training, config.seed, config.F, pools, dropout)


def fc_classifier(features: tf.Tensor, config: Config, num_classes: int, training: bool) -> tf.Tensor:
    """Logits float32 [B, C] of the full FC classifier; variables are shared between calls."""
    with tf1.variable_scope("classifier", reuse=tf1.AUTO_REUSE):
        if config.dataset == "imagenet":
            from class2str_tf.networks import vgg16_imagenet

            return vgg16_imagenet.classifier(features, num_classes, 64 * config.F)
        if config.model == "lenet":
            return lenet.classifier(features, num_classes, config.lenet == "poster", config.lenet_relu)
        if config.model == "early":
            return early.classifier(features, num_classes, training)
        return vgg16.classifier(features, num_classes, training, config.seed)


def classes_of(logits: tf.Tensor) -> tf.Tensor:
    """Predicted classes, int64 [B], of logits [B, C]; -1 for an image whose logits are not finite."""
    return tf.where(tf.reduce_all(tf.math.is_finite(logits), axis=1), tf.argmax(logits, axis=1), -1)


def reduced_fc(features: tf.Tensor, hidden: int, num_classes: int, relu: bool = True) -> tf.Tensor:
    """FC classifier shrunk to the LH's budget: a hidden layer, or none if it has no units.

    Args:
      features: float32 [B, F].
      hidden: units of the hidden layer.
      num_classes: C.
      relu: ReLU after the hidden layer.
    Returns:
      Logits, float32 [B, C].
    """
    with tf1.variable_scope("reduced", reuse=tf1.AUTO_REUSE):
        if hidden:
            features = linear(features, hidden, "fc1")
            features = tf.nn.relu(features) if relu else features
        return linear(features, num_classes, "fc2")


def reduced_hidden(weights: int, num_features: int, num_classes: int) -> int:
    """Largest hidden width whose weights do not exceed `weights`; 0, no hidden layer, if one unit has more.

    The paper does not define "reduced FC"; an FC head of about the LH's budget is our reading.
    """
    return weights // (num_features + num_classes)


def variables(*scopes: str) -> list[tf.Variable]:
    """All variables below the scopes but those of the optimizer: what a network restores from a checkpoint."""
    return [v for scope in scopes for v in tf1.global_variables(f"{scope}/") if "/Adam" not in v.op.name]


def weight_penalty(*scopes: str) -> tf.Tensor:
    """sum of 0.5 * ||W||^2 over convolution, FC and LSTM weights below the scopes; no biases, no BN. Scalar float32."""
    weights = [
        variable
        for scope in scopes
        for variable in tf1.get_collection(tf1.GraphKeys.TRAINABLE_VARIABLES, scope=scope + "/")
        if variable.op.name.endswith(("/weights", "/kernel"))
    ]
    return tf.add_n([tf.nn.l2_loss(weight) for weight in weights])


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of int64 labels [B] under logits [B, C]; scalar float32."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
