"""VGG16 with batch normalisation for small images, and its fully connected classifier (authors' vgg16.py)."""

from __future__ import annotations

from class2str_tf.method.layers import batch_norm, conv, dropout, linear, pool
from reproduction.runtime.tf import tf

KEEP = (0.7, 0.6, 0.5)  # keep-probabilities p1, p2, p3 in training


def features(
    x: tf.Tensor, training: bool, seed: int, width: int = 64, pools: int = 5, with_dropout: bool = True
) -> tf.Tensor:
    """Convolutional part.

    Args:
      x: float32 [B, H, W, channels].
      training: batch statistics and dropout, or moving statistics and none.
      seed: for dropout.
      width: channels of the first block (`--F`).
      pools: 5 gives the 512 features that the poster's parameter counts need; 3 is the released network, whose
        pools after blocks 4 and 5 are commented out: 8,192 features at 32x32 (C2S-D03).
      with_dropout: False leaves dropout out in training too.
    Returns:
      float32 [B, F], named cnn/features.
    Source: authors' vgg16.py; deviation C2S-D03.
    """
    p1, p2, _ = KEEP
    widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    # DEVIATION C2S-D03: five pools of a 28x28 image reach zero under VALID, so they round up there
    padding = "SAME" if pools == 5 and x.shape[1] % 32 else "VALID"
    layer = 0
    for block, channels in enumerate(widths, 1):
        for index in range(1, (3 if block <= 2 else 4)):
            if index > 1:
                layer += 1
                x = dropout(x, p1 if block == 1 else p2, training and with_dropout, seed, layer)
            name = f"conv{block}_{index}"
            x = tf.nn.relu(batch_norm(conv(x, channels, 3, name), training, f"{name}_bn"))
        if block <= pools:
            x = pool(x, padding, f"pool{block}")
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int, training: bool, seed: int) -> tf.Tensor:
    """FC classifier: dropout, 1024, BN, ReLU twice, dropout, C. float32 [B, F] -> logits [B, C], classifier/logits."""
    for index in (1, 2):
        x = dropout(x, KEEP[2], training, seed, 32 + index)
        x = tf.nn.relu(batch_norm(linear(x, 1024, f"fc{index}"), training, f"fc{index}_bn"))
    x = dropout(x, KEEP[2], training, seed, 35)
    return tf.identity(linear(x, num_classes, "fc3"), name="logits")
