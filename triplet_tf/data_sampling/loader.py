"""tf.data pipelines: parallel decoding in a fixed order, endless for training, once through the list for tests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.core import DatasetError
from datasets.fetch import locked
from datasets.files import reading, write_json
from datasets.identity import content_digest
from datasets.lists import ImageLists
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf import tf, tf1
from reproduction.runtime.tf_runtime import gpu_name, upright
from triplet_tf.config.base_config import Config
from triplet_tf.data_sampling import augment, image_lists, sampler

PREFETCH = 2  # batches
CACHE = "cache"  # folder below the data folder
CACHE_VERSION = 1  # of what lies there; another one is refused
ON_GPU_BYTES = 4 << 30  # a larger cache stays on the host
TABLE = "pixels"  # collection of a graph, with the one variable that holds a cache in the memory of a GPU


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


class ImageCache:
    """Images decoded once (`--image_cache`): all pixels of a data set in one file, which is memory-mapped.

    `<data folder>/cache/<db_name>-<side>/` holds `pixels.bin`, uint8 RGB of one image after the other, and
    `index.json`, written last: names, sizes, and a digest of the files they were decoded from. The shorter side is at
    most the larger one of --resize_sides. The folder can be deleted whenever nothing runs.
    """

    def __init__(self, config: Config, lists: ImageLists):
        """Adds what decodes a file to the current graph; nothing is read before `attach`."""
        self.config, self.lists, self.side = config, lists, config.resize_sides[1]
        name = re.sub(r"[^\w.-]+", "_", config.db_name)
        self.folder = Path(config.data_dir) / CACHE / f"{name}-{self.side}"
        self._places: dict[bytes, tuple[int, int, int]] = {}  # path -> first byte, height, width
        self._pixels = np.empty(0, np.uint8)
        self._path = tf1.placeholder(tf.string, [])
        # DEVIATION STL-D24: reduced here and again to the drawn side; an image of that size already stays as it is
        self._decoded = augment.reduced(decode(self._path), self.side)
        self.table: tf.Variable | None = None
        count, tables = len(lists.train.names) + len(lists.test.names), tf1.get_collection_ref(TABLE)
        if gpu_name() and config.aug_style == "img" and count * self.side**2 * 3 <= ON_GPU_BYTES:
            if not tables:
                with tf.device("/GPU:0"):
                    tables.append(
                        tf1.Variable(
                            tf1.placeholder(tf.uint8, [None, 3]),
                            trainable=False,
                            collections=[],
                            use_resource=True,
                            validate_shape=False,
                            shape=[None, 3],
                        )
                    )
            self.table = tables[0]

    def read(self, path: tf.Tensor) -> tf.Tensor:
        """Takes the place of `decode` in a pipeline that starts after `attach`."""

        def pixels(path: bytes) -> np.ndarray:
            first, height, width = self._places[path]
            return self._pixels[first : first + height * width * 3].reshape(height, width, 3)

        return tf.ensure_shape(tf.numpy_function(pixels, [path], tf.uint8, stateful=False), [None, None, 3])

    def place(self, path: tf.Tensor, crop: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> tf.Tensor:
        """Finds a row of `places` for `augment.crops`, instead of `read`; `crop` chooses by an image's shape."""
        entry = tf.numpy_function(lambda path: np.array(self._places[path]), [path], tf.int64, stateful=False)
        first, *shape = tf.unstack(tf.ensure_shape(entry, [3]))
        size, corner, mirror = crop(tf.cast(tf.stack(shape), tf.int32))
        chosen = tf.concat([size, corner, [tf.cast(mirror, tf.int32)]], 0)
        return tf.concat([[first // 3], shape, tf.cast(chosen, tf.int64)], 0)

    def attach(self, session: tf1.Session) -> None:
        """Maps the file; makes it if it is not there. Of several processes one makes it, and the others wait.

        Raises:
          DatasetError: what is there was made of other images, at another size, or is damaged.
          UserError: an image cannot be decoded.
        """
        if self._places:
            return
        with locked(self.folder):
            if not (self.folder / "index.json").is_file():
                self._make(session)
        index = self.folder / "index.json"
        with reading(index):
            stored = json.loads(index.read_text(encoding="utf-8"))
            names, shapes = stored["names"], np.array(stored["shapes"], np.int64)
            sizes = 3 * shapes.prod(axis=1)
        pixels = self.folder / "pixels.bin"
        wrong = {
            "another version or size": (stored["version"], stored["side"]) != (CACHE_VERSION, self.side),
            "it lacks images of these lists": bool({*self.lists.train.names, *self.lists.test.names} - {*names}),
            "pixels.bin is damaged": not pixels.is_file() or pixels.stat().st_size != sizes.sum(),
        }
        reasons = [reason for reason, is_so in wrong.items() if is_so]
        if not reasons and stored["digest"] != self._digest(names):
            reasons = ["the images have changed"]
        if reasons:
            raise DatasetError(
                f"{self.folder}: no cache of these images: {reasons[0]}; delete the folder, it is made anew"
            )
        self._pixels = np.memmap(pixels, np.uint8, "r").view(np.ndarray)
        paths, firsts = as_bytes(file_paths(self.lists.images, names)), np.cumsum(sizes) - sizes
        self._places = {
            path: (int(first), int(height), int(width))
            for path, first, (height, width) in zip(paths, firsts, shapes, strict=True)
        }
        if self.table is not None:
            session.run(self.table.initializer, {self.table.initializer.inputs[1]: self._pixels.reshape(-1, 3)})

    def _digest(self, names: Sequence[str]) -> str:
        images = self.lists.images
        return content_digest([images / name for name in names], images, Path(self.config.data_dir))

    def _make(self, session: tf1.Session) -> None:
        """Decodes every image of the data set, the final test list included."""
        final = image_lists.open_lists(self.config, final=True)
        names = sorted({*self.lists.train.names, *self.lists.test.names, *final.test.names})
        digest, shapes, partial = self._digest(names), [], self.folder / "pixels.partial"
        print(f"{shown(self.folder)}: decoding {len(names):,} images once; later runs read them there", flush=True)
        try:
            with open(partial, "wb") as file:
                for path in file_paths(self.lists.images, names):
                    image = session.run(self._decoded, {self._path: os.fsencode(path)})
                    file.write(image.tobytes())
                    shapes.append(image.shape[:2])
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / "pixels.bin")
            written = {"version": CACHE_VERSION, "side": self.side, "digest": digest, "names": names, "shapes": shapes}
            write_json(self.folder / "index.json", written)
        except tf.errors.OpError as error:
            raise explained(error, [path]) from None
        except OSError as error:
            raise DatasetError(f"{self.folder}: cannot be written ({error.strerror}); see --data-dir") from error
        finally:
            partial.unlink(missing_ok=True)


class TrainBatches:
    """Endless training batches that start at a given batch; see `start`."""

    def __init__(self, config: Config, lists: ImageLists):
        """Builds the pipeline in the current graph: `images` float32 [B, f, f, 3], `labels` int64 [B]."""
        rows, size, seed = lists.train, config.batch_size, config.seed
        self.plan = batch_plan(config, rows.labels)
        self.paths = file_paths(lists.images, rows.names)
        style, kind, flip = config.aug_style, config.network.preprocess, config.flip
        frame, sides = config.frame_side, config.resize_sides
        cache = self.cache = ImageCache(config, lists) if config.image_cache else None
        read, table = (cache.read, cache.table) if cache else (decode, None)
        self._first = tf1.placeholder(tf.int64, [], name="first_batch")
        names, label_table = tf1.placeholder(tf.string, [None]), tf1.placeholder(tf.int64, [None])
        self._feed = {names: as_bytes(self.paths), label_table: rows.labels}

        def choose(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chosen = tf.numpy_function(lambda n: self.plan(int(n)), [number], tf.int64)
            chosen = tf.ensure_shape(chosen, [size])
            return (
                tf.gather(names, chosen),
                tf.gather(label_table, chosen),
                number * size + tf.range(size, dtype=tf.int64),
            )

        def prepare(path: tf.Tensor, label: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            draw = augment.draws(seed, number)
            if cache and table is not None:
                return cache.place(path, lambda shape: augment.train_crop(shape, draw, frame, sides, flip)), label
            image = read(path)
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
        if table is not None:
            with tf.device("/GPU:0"):
                self.images = augment.crops(table, self.images, frame, kind)

    def start(self, session: tf1.Session, number: int) -> None:
        """Makes batch `number` the next one that a run fetches."""
        if self.cache:
            self.cache.attach(session)
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
        cache = self.cache = ImageCache(config, lists) if config.image_cache else None
        read, table = (cache.read, cache.table) if cache else (decode, None)

        def prepare(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if cache and table is not None:
                return cache.place(path, lambda shape: augment.test_crop(shape, frame, low)), label
            image = read(path)
            return (augment.test_image(image, frame, low, kind) if single else augment.square(image)), label

        files = tf1.data.Dataset.from_tensor_slices((self._table, self._labels))
        images = files.map(plain(prepare), num_parallel_calls=config.tuple_loader_queue_size, deterministic=True)
        batches = images.batch(config.eval_batch or config.batch_size)
        if not single:
            batches = batches.map(plain(lambda images, labels: (augment.test_batch(images, kind), labels)))
        self._iterator = tf1.data.make_initializable_iterator(batches.prefetch(PREFETCH))
        self.images, self.labels = self._iterator.get_next()
        if table is not None:
            with tf.device("/GPU:0"):
                self.images = augment.crops(table, self.images, frame, kind)

    def start(self, session: tf1.Session) -> None:
        """Goes to the head of the list."""
        if self.cache:
            self.cache.attach(session)
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
    full = isinstance(error, tf.errors.ResourceExhaustedError)
    if full and "GPU" in error.message:  # runtime.faults explains it; images are decoded on the CPU
        return error
    with tf1.Graph().as_default(), tf1.Session() as session:
        path = tf1.placeholder(tf.string, [])
        image = decode(path)
        for name in dict.fromkeys(files):
            try:
                session.run(image, {path: os.fsencode(name)})
            except tf.errors.OpError as reason:
                return UserError(f"{shown(name)}: not a readable JPEG or PNG image ({_reason(reason)})")
    if full:
        return UserError(f"out of memory ({_reason(error)}); choose a smaller --batch_size")
    return error


def _reason(error: tf.errors.OpError) -> str:
    """Returns the line of TensorFlow's message that names the fault: the one before the node."""
    return (error.message.partition("\n\t [[")[0].splitlines() or [type(error).__name__])[-1].strip()[:160]
