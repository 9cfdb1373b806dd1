"""Center loss on the normalised embedding, and the update of the centers that the released runs never execute."""

from __future__ import annotations

from reproduction.runtime.tf import tf, tf1

CENTER_LAMBDA = 0.003  # hard-coded in the released script; --triplet_loss_lambda is not used with cntr
CENTER_ALPHA = 0.5
CENTERS_SEED = 0x63  # of the initial values, together with the graph's seed


def new_centers(num_classes: int, emb_dim: int) -> tf.Variable:
    """Variable `centers` float32 [num_classes, emb_dim], drawn from N(0, 1), not trainable."""
    normal = tf1.random_normal_initializer(seed=CENTERS_SEED)
    return tf1.get_variable("centers", [num_classes, emb_dim], initializer=normal, trainable=False)


def center_loss(labels: tf.Tensor, embeddings: tf.Tensor, centers: tf.Tensor | tf.Variable) -> tf.Tensor:
    """0.5 * SUM over the batch of |e_i - c_(y_i)|^2: a sum, so that its weight grows with the batch size.

    Args:
      labels: integers [B], below num_classes.
      embeddings: float [B, d].
      centers: same type [num_classes, d]; no gradient is meant to reach them (`new_centers` is not trainable).
    Returns:
      Scalar of the embeddings' type, without the weight `CENTER_LAMBDA`.
    Source: docs/papers/triplet.md, "Method".
    """
    return tf.nn.l2_loss(embeddings - tf.gather(centers, labels))


def center_update(
    labels: tf.Tensor, embeddings: tf.Tensor, centers: tf.Variable, alpha: float = CENTER_ALPHA
) -> tf.Operation:
    """c_j <- c_j - alpha * sum_(i: y_i = j) (c_j - e_i) / (1 + n_j), n_j images of class j in the batch.

    Every difference uses the centers from before the update; a class that is not in the batch keeps its center. Build
    it under a control dependency on the loss, which has to read the old centers.

    Args:
      labels: integers [B], below num_classes.
      embeddings: float [B, d].
      centers: variable of the same type [num_classes, d].
      alpha: in (0, 1].
    Returns:
      The assignment.
    Source: Wen et al. 2016, equation 4; deviation STL-D01 (the released code never runs it).
    """
    # DEVIATION STL-D01: updated under --center_update on, the default; `off` is the released behaviour
    num_classes = centers.shape[0]
    old = tf.identity(centers)
    count = tf.math.unsorted_segment_sum(tf.ones_like(labels, embeddings.dtype), labels, num_classes)[:, None]
    total = tf.math.unsorted_segment_sum(tf.stop_gradient(embeddings), labels, num_classes)
    return centers.assign(old - alpha * (count * old - total) / (1.0 + count), read_value=False)
