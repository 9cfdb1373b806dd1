"""LeNet as released (784 features of a 28x28 image) and as the poster's parameter count needs it (3,136)."""

from __future__ import annotations

from class2str_tf.method.layers import batch_norm, conv, linear, pool
from reproduction.runtime.tf import tf


def features(x: tf.Tensor, training: bool, poster: bool = False) -> tf.Tensor:
    """Convolutional part.

    Args:
      x: float32 [B, H, W, channels].
      training: batch statistics or moving statistics.
      poster: two convolutions of 32 and 64 channels without BN, inferred from the poster's 1.61 M (`--lenet poster`).
    Returns:
      float32 [B, F], named cnn/features.
    Source: authors' lenet.py; poster variant inferred.
    """
    if poster:
        x = pool(tf.nn.relu(conv(x, 32, 5, "conv1")), "VALID", "pool1")
        x = pool(tf.nn.relu(conv(x, 64, 5, "conv2")), "VALID", "pool2")
    else:
        x = pool(tf.nn.relu(conv(x, 8, 5, "conv1")), "VALID", "pool1")
        x = pool(tf.nn.relu(batch_norm(conv(x, 16, 3, "conv2"), training, "conv2_bn")), "VALID", "pool2")
        x = tf.nn.relu(batch_norm(conv(x, 16, 3, "conv3"), training, "conv3_bn"))
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int, poster: bool = False, relu: bool = False) -> tf.Tensor:
    """FC classifier: 300, 100, C without activations between, as released; 512, C with ReLU for the poster's.

    Args:
      x: float32 [B, F].
      relu: put ReLU between the released linears (`--lenet_relu`).
    Returns:
      logits float32 [B, C], named classifier/logits.
    """
    for index, width in enumerate((512,) if poster else (300, 100), 1):
        x = linear(x, width, f"fc{index}")
        if poster or relu:
            x = tf.nn.relu(x)
    return tf.identity(linear(x, num_classes, "fc_out"), name="logits")
