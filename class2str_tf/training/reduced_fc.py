"""Reduced FC: an FC classifier within the LH's weight budget, trained on the frozen features with stage 1's loss.

The poster shows this column without defining it; the reading is ours (docs/papers/class2str.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import trange

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices
from class2str_tf.flags import Stage2Config
from class2str_tf.method.layers import count_parameters
from class2str_tf.networks import build as networks
from class2str_tf.training.frozen_features import Features
from class2str_tf.training.loop import learning_rate, refuse_non_finite
from reproduction.runtime import tf_runtime
from reproduction.runtime.tf import tf, tf1


def train_reduced(
    config: Stage2Config, data: datasets.Dataset, inputs: Features, budget: int, steps: int, session_config: Any
) -> tuple[dict[str, float], np.ndarray]:
    """Trains the reduced classifier from scratch; short enough to start again after a kill.

    Args:
      config: resolved flags of stage 2.
      data: the data set, for its labels.
      inputs: features of stage 1.
      budget: weights that the LH classifier has.
      steps: training steps, as many as in stage 2.
      session_config: see `tf_runtime.start`.
    Returns:
      Accuracy in [0, 1] over the whole test set, and the number of weights.
      Which test images are classified correctly, bool [N].
    Raises:
      UserError: outputs that are not finite.
    """
    num_classes = len(data.class_names)
    hidden = networks.reduced_hidden(budget, inputs.train.shape[1], num_classes)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config.seed)
        step = tf1.train.get_or_create_global_step()
        batches = Batches(inputs.train, data.train_labels, config.B, config.seed, has_fixed_order(config))
        logits = networks.reduced_fc(batches.x, hidden, num_classes)
        penalty = networks.weight_decay(config) * networks.weight_penalty("reduced")
        loss = networks.cross_entropy(batches.labels, logits) + penalty
        train = tf1.train.AdamOptimizer(learning_rate(config, step, steps)).minimize(loss, global_step=step)
        x = tf1.placeholder(tf.float32, [None, inputs.train.shape[1]])
        predicted = networks.classes_of(networks.reduced_fc(x, hidden, num_classes))
        with tf_runtime.session(session_config) as session:
            batches.start(session, 0)
            for _ in trange(steps, desc="reduced FC", disable=None, leave=False):
                session.run(train)
            answers = np.concatenate([session.run(predicted, {x: part}) for part in slices(inputs.test, config.B)])
        refuse_non_finite("reduced FC", bool((answers >= 0).all()))
        right = answers == data.test_labels
        weights = count_parameters("reduced", weights_only=True)
        return {"reduced_fc_accuracy": int(right.sum()) / len(right), "reduced_fc_weights": weights}, right
