"""Forward time per image: CNN + FC against CNN + LH + string table."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import datasets
from class2str_tf.flags import Stage2Config
from class2str_tf.method import model
from class2str_tf.networks import build as networks
from reproduction.runtime import tf_runtime
from reproduction.runtime.tf import tf, tf1

REPEATS = 30
SECONDS = 4.0  # enough repeats within this time; at least 5


def forward_times(
    config: Stage2Config, data: datasets.Dataset, codes: np.ndarray, session_config: Any
) -> dict[str, dict[str, float]]:
    """Times both classifiers behind the same CNN, interleaved, after a warm-up; the weights do not matter.

    Args:
      codes: uint8 [C, L], the string table.
    Returns:
      {"1": {"fc_s": .., "lh_s": .., "change": lh/fc - 1, "repeats": n}, "<B>": {...}}: medians, seconds per image.
    """
    with tf1.Graph().as_default():
        images, fc, lh = classifiers(config, data.test_images.shape[1:], codes)
        with tf_runtime.session(session_config) as session:
            return {str(size): _pair(session, fc, lh, {images: data.test_images[:size]}) for size in (1, config.B)}


def classifiers(
    config: Stage2Config, shape: tuple[int, ...], codes: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Builds both classifiers behind one CNN in the current graph.

    Args:
      config: resolved flags.
      shape: of an image, (H, W, C).
      codes: uint8 [C, L], the string table.
    Returns:
      The images to feed, uint8 [N, H, W, C].
      Classes by the FC classifier, int64 [N].
      Classes by the LH classifier and the string table, int64 [N]; -1 for a string of no class.
    """
    num_classes, num_bits = codes.shape
    powers = 2 ** np.arange(num_bits)[::-1]
    owner = np.full(2**num_bits, -1, np.int64)
    owner[codes.astype(np.int64) @ powers] = np.arange(num_classes)
    tf1.set_random_seed(0)
    tf1.train.get_or_create_global_step()
    images = tf1.placeholder(tf.uint8, [None, *shape])
    outputs = networks.cnn(images, config, training=False)
    fc = tf.argmax(networks.fc_classifier(outputs, config, num_classes, training=False), axis=1)
    bits = tf.argmax(model.lh_classifier(outputs, num_bits, config.lstm_units), axis=2)
    return images, fc, tf.gather(tf.constant(owner), tf.reduce_sum(bits * tf.constant(powers, tf.int64), axis=1))


def _pair(session: Any, fc: Any, lh: Any, feed: dict[Any, np.ndarray]) -> dict[str, float]:
    size = len(next(iter(feed.values())))
    for _ in range(3):
        session.run(fc, feed)
        session.run(lh, feed)
    times: dict[str, list[float]] = {"fc": [], "lh": []}
    begin = time.perf_counter()
    while len(times["lh"]) < REPEATS and (len(times["lh"]) < 5 or time.perf_counter() - begin < SECONDS):
        for name, output in (("fc", fc), ("lh", lh)):
            start = time.perf_counter()
            session.run(output, feed)
            times[name].append((time.perf_counter() - start) / size)
    fc_s, lh_s = float(np.median(times["fc"])), float(np.median(times["lh"]))
    return {"fc_s": fc_s, "lh_s": lh_s, "change": lh_s / fc_s - 1, "repeats": len(times["lh"])}
