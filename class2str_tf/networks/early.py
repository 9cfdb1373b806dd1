"""VGG with six convolutions that pools early: CIFAR-10 in minutes on one core (profile `matched`)."""

from __future__ import annotations

from class2str_tf.method.layers import batch_norm, conv, linear, pool, tf


def features(x: tf.Tensor, training: bool, width: int = 64) -> tf.Tensor:
    """Convolutional part: a convolution at full size, then three blocks that pool after their first convolution.

    Half of the work of a VGG lies in its first blocks, where images are large; here only two thin convolutions see
    them. Batch normalisation and ReLU as in VGG16, no dropout: the schedule is too short to over-fit.

    Args:
      x: float32 [B, H, W, channels].
      training: batch statistics or moving statistics.
      width: `--F`; the widths are F/4, 3F/8, 3F/4, 2F, so that 64 gives 16, 24, 48, 128.
    Returns:
      float32 [B, F], named cnn/features; 512 features of a 32x32 image at width 64, as the paper's VGG16.
    """
    widths = [max(1, width * eighths // 8) for eighths in (2, 3, 6, 16)]
    x = tf.nn.relu(batch_norm(conv(x, widths[0], 3, "conv0"), training, "conv0_bn"))
    for block, channels in enumerate(widths[1:], 1):
        x = pool(conv(x, channels, 3, f"conv{block}_1"), "SAME", f"pool{block}")
        x = tf.nn.relu(batch_norm(x, training, f"conv{block}_1_bn"))
        x = tf.nn.relu(batch_norm(conv(x, channels, 3, f"conv{block}_2"), training, f"conv{block}_2_bn"))
    x = pool(x, "SAME", "pool4")
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int, training: bool) -> tf.Tensor:
    """FC classifier of VGG16 without its dropout: 1024, BN, ReLU twice, C. float32 [B, F] -> logits [B, C]."""
    for index in (1, 2):
        x = tf.nn.relu(batch_norm(linear(x, 1024, f"fc{index}"), training, f"fc{index}_bn"))
    return tf.identity(linear(x, num_classes, "fc3"), name="logits")
