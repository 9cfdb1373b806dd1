"""Batches inside the graph: a step's images are a pure function of (seed, step), so a resumed run repeats them."""

from __future__ import annotations

from typing import Any

import numpy as np

from class2str_tf.data.augment import shift_and_flip
from class2str_tf.flags import Config
from reproduction.runtime import tf_runtime
from reproduction.runtime.tf import tf, tf1

IN_MEMORY_BYTES = 1 << 30  # larger arrays stay memory-mapped and are read batch by batch


def has_fixed_order(config: Config) -> bool:
    """Whether --legacy-batches replays an unshuffled order: the released ImageNet script alone shuffles each epoch."""
    return bool(config.legacy_batches) and config.dataset != "imagenet"


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Steps that show every image once; the last batch may be smaller."""
    return -(-num_images // batch_size)


def batch_indices(step: tf.Tensor, num_images: int, batch_size: int, seed: int, legacy: bool) -> tf.Tensor:
    """Returns the positions of the images of a training step, int64 [<= B].

    Args:
      step: int64 scalar from 0.
      num_images: N.
      batch_size: B.
      seed: draws a new permutation for each epoch.
      legacy: True for the released order: it is never shuffled, and a strict `<` skips the last batch, so that the
        cycle of floor((N-1)/B) batches drifts against the epoch (deviation C2S-D15).
    """
    if legacy:
        cycle = max((num_images - 1) // batch_size, 1)
        start = (step % cycle) * batch_size
        return tf.range(start, tf.minimum(start + batch_size, num_images))
    per_epoch = steps_per_epoch(num_images, batch_size)
    epoch, start = step // per_epoch, (step % per_epoch) * batch_size
    positions = tf.range(start, tf.minimum(start + batch_size, num_images))
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(positions, key, tf.constant(num_images - 1, tf.int64))


class Batches:
    """Endless batches of (x, labels) that start at a given step; see `start`."""

    def __init__(
        self, x: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, legacy: bool, augment: bool = False
    ):
        """Builds the input pipeline in the current graph.

        Args:
          x: uint8 images [N, H, W, C] or float32 features [N, F], in memory or memory-mapped.
          labels: int64 [N].
          batch_size: B.
          seed: as in `batch_indices`.
          legacy: as in `batch_indices`.
          augment: whether images are shifted and flipped.
        """
        self._first = tf1.placeholder(tf.int64, [], name="first_step")
        self._feed: dict[tf.Tensor, Any] = {}
        mapped = isinstance(x, np.memmap) and x.nbytes > IN_MEMORY_BYTES
        on_gpu = not mapped and tf_runtime.gpu_name() is not None
        tables = [*([] if mapped else [self._fed(x)]), self._fed(labels)]

        def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.device("/CPU:0"):  # TensorFlow permutes there alone
                indices = batch_indices(step, len(labels), batch_size, seed, legacy)
            if mapped:
                rows = tf.numpy_function(lambda chosen: np.ascontiguousarray(x[chosen]), [indices], x.dtype)
                rows.set_shape([None, *x.shape[1:]])
            else:
                rows = tf.gather(tables[0], indices)
            if augment:
                # a GPU has no kernel that mirrors the border of uint8 images; floats hold the same values
                moved = shift_and_flip(tf.cast(rows, tf.float32) if on_gpu else rows, seed, step)
                rows = tf.cast(moved, rows.dtype)
            return rows, tf.gather(tables[-1], indices)

        if on_gpu:  # the tables stay in the GPU's memory, and each run of the graph takes the next step's rows there
            with tf.device("/GPU:0"):
                tables = [_variable(table) for table in tables]
                with tf.device("/CPU:0"):
                    count = _variable(self._first)
                    step = count.assign_add(1) - 1
                self.x, self.labels = batch(step)
            self._start = [variable.initializer for variable in (*tables, count)]
            return
        steps = tf1.data.Dataset.range(self._first, np.iinfo(np.int64).max)
        plain = tf.autograph.experimental.do_not_convert(batch)  # there is no Python control flow on tensors to convert
        batches = steps.map(plain, num_parallel_calls=2, deterministic=True).prefetch(2)
        iterator = tf1.data.make_initializable_iterator(batches)
        self._start = [iterator.initializer]
        self.x, self.labels = iterator.get_next()

    def _fed(self, array: np.ndarray) -> tf.Tensor:
        table = tf1.placeholder(tf.as_dtype(array.dtype), array.shape)
        self._feed[table] = array
        return table

    def start(self, session: tf1.Session, step: int) -> None:
        """Makes `step` the next batch that a run fetches."""
        session.run(self._start, {**self._feed, self._first: step})


def _variable(value: tf.Tensor) -> tf.Variable:
    """A variable in no collection, so that neither optimizers nor checkpoints see it."""
    return tf1.Variable(value, trainable=False, collections=[], use_resource=True)


def slices(array: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive parts of an array, the last one possibly smaller; views, not copies."""
    return [array[i : i + batch_size] for i in range(0, len(array), batch_size)]
