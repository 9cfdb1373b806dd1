"""tf.data pipelines: parallel decoding in a fixed order, endless for training, once through the list for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.lists import ImageLists
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf_runtime import upright
from triplet_tf.config.base_config import Config
from triplet_tf.data_sampling import augment, sampler
from triplet_tf.data_sampling.augment import tf, tf1

PREFETCH = 2  # batches


def batch_plan(config: Config, labels: np.ndarray) -> Callable[[int], np.ndarray]:
    """Chooses the sampler of a configuration: batch number -> image numbers, int64 [B]."""
    if not config.grouped:  # DEVIATION STL-D22: --vanilla_batches grouped samples as the other modes do
        return sampler.shuffled(len(labels), config.batch_size, config.seed)
    return sampler.grouped(labels, config.batch_size, config.Triplet_K, config.seed)


def decode(path: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG file to uint8 [H, W, 3]; grey becomes RGB. DEVIATION STL-D20: upright, as EXIF says."""
    raw = tf.io.read_file(path)
    image = tf.io.decode_jpeg(raw, channels=3)  # the op reads PNG as well
    return upright(tf.ensure_shape(image, [None, None, 3]), raw)  # it would read a film as well, with one axis more


def plain(function: Callable) -> Callable:
    """Keeps autograph away: no Python control flow on tensors here, and it costs a second."""
    return tf.autograph.experimental.do_not_convert(function)


class TrainBatches:
    """Endless training batches that start at a given batch; see `start`."""

    def __init__(self, config: Config, lists: ImageLists):
        """Builds the pipeline in the current graph: `images` float32 [B, f, f, 3], `labels` int64 [B]."""
        rows, size, seed = lists.train, config.batch_size, config.seed
        self.plan = batch_plan(config, rows.labels)
        self.paths = file_paths(lists.images, rows.names)
        style, kind, flip = config.aug_style, config.network.preprocess, config.flip
        frame, sides = config.frame_side, config.resize_sides
        self._first = tf1.placeholder(tf.int64, [], name="first_batch")
        table, label_table = tf1.placeholder(tf.string, [None]), tf1.placeholder(tf.int64, [None])
        self._feed = {table: as_bytes(self.paths), label_table: rows.labels}

        def choose(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chosen = tf.numpy_function(lambda n: self.plan(int(n)), [number], tf.int64)
            chosen = tf.ensure_shape(chosen, [size])
            return (
                tf.gather(table, chosen),
                tf.gather(label_table, chosen),
                number * size + tf.range(size, dtype=tf.int64),
            )

        def prepare(path: tf.Tensor, label: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, draw = decode(path), augment.draws(seed, number)
            if style == "img":
                return augment.train_image(image, draw, frame, sides, flip, kind), label
            return augment.square(image), label, draw[3] < (0.5 if flip else 0.0), number

        def crop(images: tf.Tensor, labels: tf.Tensor, mirror: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            key = augment.draws(seed, -1 - number[0] // size)  # negative: the batch's own stream
            return augment.train_batch(images, key, mirror, kind), labels

        numbers = tf1.data.Dataset.range(self._first, np.iinfo(np.int64).max)
        images = numbers.map(plain(choose)).unbatch()
        images = images.map(plain(prepare), num_parallel_calls=config.tuple_loader_queue_size, deterministic=True)
        batches = images.batch(size, drop_remainder=True)
        if style == "batch":
            batches = batches.map(plain(crop))
        self._iterator = tf1.data.make_initializable_iterator(batches.prefetch(PREFETCH))
        self.images, self.labels = self._iterator.get_next()

    def start(self, session: tf1.Session, number: int) -> None:
        """Makes batch `number` the next one that a run fetches."""
        session.run(self._iterator.initializer, {**self._feed, self._first: number})

    def upcoming(self, number: int, count: int) -> list[str]:
        """Returns the files of `count` batches from `number` on, for messages."""
        return [str(self.paths[i]) for n in range(number, number + count) for i in self.plan(n)]


class TestBatches:
    """A list in order, all images, the last batch possibly smaller; see `start`."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, config: Config, lists: ImageLists):
        """Builds the pipeline: `images` float32 [<=B, f, f, 3], `labels` int64 [<=B]."""
        kind, frame, low = config.network.preprocess, config.frame_side, config.resize_sides[0]
        single = config.aug_style == "img"
        self._table, self._labels = tf1.placeholder(tf.string, [None]), tf1.placeholder(tf.int64, [None])
        self.lists = lists

        def prepare(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = decode(path)
            return (augment.test_image(image, frame, low, kind) if single else augment.square(image)), label

        files = tf1.data.Dataset.from_tensor_slices((self._table, self._labels))
        images = files.map(plain(prepare), num_parallel_calls=config.tuple_loader_queue_size, deterministic=True)
        batches = images.batch(config.eval_batch or config.batch_size)
        if not single:
            batches = batches.map(plain(lambda images, labels: (augment.test_batch(images, kind), labels)))
        self._iterator = tf1.data.make_initializable_iterator(batches.prefetch(PREFETCH))
        self.images, self.labels = self._iterator.get_next()

    def start(self, session: tf1.Session) -> None:
        """Goes to the head of the list."""
        feed = {self._table: as_bytes(self.files()), self._labels: self.lists.test.labels}
        session.run(self._iterator.initializer, feed)

    def files(self) -> np.ndarray:
        """Returns the paths of the list in order, as `file_paths`."""
        return file_paths(self.lists.images, self.lists.test.names)


def file_paths(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Returns file names below a folder as an object array, which TensorFlow takes for strings."""
    return np.array([str(folder / name) for name in names], object)


def as_bytes(paths: Sequence[str] | np.ndarray) -> np.ndarray:
    """Encodes paths as the disk has them; TensorFlow would write them as UTF-8, which a name need not be."""
    return np.array([os.fsencode(path) for path in paths], object)


def explained(error: tf.errors.OpError, files: Sequence[str] | np.ndarray) -> Exception:
    """Finds what to raise if a session failed: TensorFlow does not name the image that it cannot read.

    Args:
      error: what the session raised.
      files: paths of the images that were being read.
    Returns:
      UserError with the first file that TensorFlow cannot read, or one about the memory; else the error itself.
    """
    with tf1.Graph().as_default(), tf1.Session() as session:
        path = tf1.placeholder(tf.string, [])
        image = decode(path)
        for name in dict.fromkeys(files):
            try:
                session.run(image, {path: os.fsencode(name)})
            except tf.errors.OpError as reason:
                return UserError(f"{shown(name)}: not a readable JPEG or PNG image ({_reason(reason)})")
    if isinstance(error, tf.errors.ResourceExhaustedError) and "GPU" not in error.message:  # else runtime.faults
        return UserError(f"out of memory ({_reason(error)}); choose a smaller --batch_size")
    return error


def _reason(error: tf.errors.OpError) -> str:
    """Returns the line of TensorFlow's message that names the fault: the one before the node."""
    return (error.message.partition("\n\t [[")[0].splitlines() or [type(error).__name__])[-1].strip()[:160]
