"""The method: LH classifier, Class2Str, Str2Class and their loss.

Symbols of the paper, mapped once: C classes (`num_classes`), L bits of a class string (`num_bits`), p^i = the LH
classifier's distribution of bit i, from the image, q^i = Class2Str's distribution of bit i, from the label, w_c, w_i,
w_l2 = weights of the three terms, mu = decay over bits.
Source: authors' train_rnn_classifier_cifar.py (Hash, InvHash) and the ICPR poster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from class2str_tf.method.layers import linear, name_seed
from reproduction.runtime.tf import tf, tf1


class Terms(NamedTuple):
    """Scalars of one batch, under the names of the authors' TensorBoard."""

    rnn_classification_loss: tf.Tensor
    inverse_loss: tf.Tensor
    l2_z: tf.Tensor
    loss: tf.Tensor


def lstm(inputs: Sequence[tf.Tensor], units: int, scope: str) -> list[tf.Tensor]:
    """LSTM with the layout and initial values of TF1's LSTMCell (gates i, j, f, o; forget bias 1; zero state).

    Args:
      inputs: L tensors float32 [B, n]; a tensor given several times is projected once, which is the same sum in
        less work: the LH classifier feeds one feature vector at every step.
      units: width h.
    Returns:
      L tensors float32 [B, h].
    """
    width = inputs[0].shape[-1]
    with tf1.variable_scope(scope, reuse=tf1.AUTO_REUSE):
        glorot = tf1.glorot_uniform_initializer(seed=name_seed("kernel"))
        kernel = tf1.get_variable("kernel", [width + units, 4 * units], initializer=glorot)
        bias = tf1.get_variable("bias", [4 * units], initializer=tf1.zeros_initializer())
    projected = {id(x): tf.matmul(x, kernel[:width]) + bias for x in inputs}
    recurrent = kernel[width:]
    outputs, state, output = [], None, None
    for x in inputs:
        gates = projected[id(x)] if output is None else projected[id(x)] + tf.matmul(output, recurrent)
        i, j, f, o = tf.split(gates, 4, axis=1)
        new = tf.sigmoid(i) * tf.tanh(j)
        state = new if state is None else tf.sigmoid(f + 1.0) * state + new
        output = tf.sigmoid(o) * tf.tanh(state)
        outputs.append(output)
    return outputs


def lh_classifier(features: tf.Tensor, num_bits: int, units: Sequence[int]) -> tf.Tensor:
    """Latent Hierarchy classifier: stacked LSTMs fed with the features at every step, a linear map per bit.

    Args:
      features: float32 [B, F].
      num_bits: L.
      units: width of each LSTM, first to last.
    Returns:
      Bit logits float32 [B, L, 2].
    """
    with tf1.variable_scope("lh", reuse=tf1.AUTO_REUSE):
        sequence = [features] * num_bits
        for index, width in enumerate(units, 1):
            sequence = lstm(sequence, width, f"lstm{index}")
        return tf.stack([linear(x, 2, f"bit{i}") for i, x in enumerate(sequence, 1)], axis=1)


def class2str(one_hot: tf.Tensor, num_bits: int, hidden: int) -> tf.Tensor:
    """Class2Str (`Hash`): label -> linear H -> ReLU -> a linear map per bit. float32 [B, C] -> logits [B, L, 2]."""
    with tf1.variable_scope("class2str", reuse=tf1.AUTO_REUSE):
        x = tf.nn.relu(linear(one_hot, hidden, "hidden"))
        return tf.stack([linear(x, 2, f"bit{i}") for i in range(1, num_bits + 1)], axis=1)


def str2class(q: tf.Tensor, num_classes: int, hidden: int) -> tf.Tensor:
    """Str2Class (`InvHash`): soft string -> linear H -> ReLU -> linear C. float32 [B, L, 2] -> logits [B, C]."""
    with tf1.variable_scope("str2class", reuse=tf1.AUTO_REUSE):
        flat = tf.reshape(q, [-1, q.shape[1] * q.shape[2]])
        return linear(tf.nn.relu(linear(flat, hidden, "hidden")), num_classes, "out")


def string_cross_entropy(q: tf.Tensor, bit_logits: tf.Tensor, mu: float) -> tf.Tensor:
    """L_c = mean over the batch of sum_i mu^i H(p^i, q^i), i from 1 (C2S-D04: the released function is undefined).

    Args:
      q: target distributions float32 [B, L, 2]; gradient flows into them unless the caller stopped it.
      bit_logits: LH logits float32 [B, L, 2].
      mu: decay over bits; 1 weighs all alike.
    Returns:
      Scalar float32.
    """
    per_bit = -tf.reduce_sum(q * tf.nn.log_softmax(bit_logits), axis=2)  # [B, L]
    decay = tf.constant([mu ** (i + 1) for i in range(q.shape[1])], tf.float32)
    return tf.reduce_mean(tf.reduce_sum(per_bit * decay, axis=1))


def confidence_reward(q: tf.Tensor) -> tf.Tensor:
    """L_b = -1/2 sum over batch, bits and values of q^2: a SUM, so that its weight grows with the batch size."""
    return -tf.nn.l2_loss(q)


def loss_terms(
    bit_logits: tf.Tensor,
    q_logits: tf.Tensor,
    inverse_logits: tf.Tensor,
    labels: tf.Tensor,
    weights: tuple[float, float, float],
    mu: float,
    label_grad: str,
) -> Terms:
    """The loss of stage 2 and its terms.

    Args:
      bit_logits: LH float32 [B, L, 2].
      q_logits: Class2Str float32 [B, L, 2].
      inverse_logits: Str2Class float32 [B, C].
      labels: int64 [B].
      weights: (w_c, w_i, w_l2).
      mu: see `string_cross_entropy`.
      label_grad: "flow" lets L_c train Class2Str, as the paper claims; "stop" is the released code, whose TF1
        cross-entropy op sends no gradient into its labels: the codes then never see an image.
    Returns:
      The terms, float32 scalars.
    """
    w_c, w_i, w_l2 = weights
    q = tf.nn.softmax(q_logits)
    # DEVIATION C2S-D01: the gradient into the class strings is a switch, flow by default
    target = tf.stop_gradient(q) if label_grad == "stop" else q
    string_loss = string_cross_entropy(target, bit_logits, mu)
    inverse_loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=inverse_logits))
    reward = confidence_reward(q)
    return Terms(string_loss, inverse_loss, reward, w_c * string_loss + w_i * inverse_loss + w_l2 * reward)
