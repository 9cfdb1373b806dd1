"""ImageNet on disk: lists of images from `datasets.imagenet`, decoded when they are needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from class2str_tf.flags import Config, fc_parser, parse_fc
from datasets import imagenet as listing
from reproduction.runtime import tf_runtime
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.tf import tf, tf1

SIZE = 224


def decode(path: tf.Tensor, size: int = SIZE) -> tf.Tensor:
    """One image file as the authors feed it, but upright: nearest-neighbour squash to a square.

    Pixel i of the result is pixel floor(i * length / size) of the file, TensorFlow 1's nearest neighbour.

    Args:
      path: scalar string; JPEG (CMYK too), PNG, BMP, or the first frame of a GIF; grey becomes RGB.
      size: height and width.
    Returns:
      uint8 [size, size, 3].
    Source: authors' train_fc_classifer_imagenet.py.
    """
    raw = tf.io.read_file(path)
    image = tf.io.decode_image(raw, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    image = tf_runtime.upright(image, raw)  # DEVIATION C2S-D29
    squashed = tf1.image.resize_nearest_neighbor(image[None], [size, size])[0]
    squashed.set_shape([size, size, 3])
    return squashed


class Stream:
    """Batches of image files in the given order, decoded in parallel; call `start` in each session."""

    def __init__(self, batch_size: int, size: int):
        """Builds the pipeline in the current graph; `images` is uint8 [<= B, size, size, 3]."""
        self._paths = tf1.placeholder(tf.string, [None])
        files = tf1.data.Dataset.from_tensor_slices(self._paths)
        decoded = files.map(lambda path: decode(path, size), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        self._iterator = tf1.data.make_initializable_iterator(decoded.batch(batch_size).prefetch(2))
        self.images = self._iterator.get_next()
        self._path = tf1.placeholder(tf.string, [])
        self._single = decode(self._path, size)

    def start(self, session: tf1.Session, paths: Sequence[Path]) -> None:
        """Makes `paths` the files that are served, from the first to the last."""
        session.run(self._iterator.initializer, {self._paths: [os.fsencode(path) for path in paths]})

    def find_unreadable(self, session: tf1.Session, paths: Sequence[Path]) -> str:
        """What is wrong with which of the files of a batch that failed; one line."""
        for path in paths:
            try:
                session.run(self._single, {self._path: os.fsencode(path)})
            except tf.errors.OpError as error:
                return f"{shown(path)}: not a readable image ({str(error.message).splitlines()[0][:120]})"
        return f"{shown(paths[0])} and the files after it: cannot be decoded together"


class ImageFiles:
    """Images on disk that look like an array uint8 [N, size, size, 3]: a slice of it decodes its files."""

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], size: int):
        self.paths, self.shape = tuple(paths), (len(paths), size, size, 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> np.ndarray:
        chosen = self.paths[part]
        if not chosen:
            return np.empty((0, *self.shape[1:]), np.uint8)
        with tf1.Graph().as_default():
            tf1.set_random_seed(0)
            stream = Stream(len(chosen), self.shape[1])
            with tf1.Session() as session:
                stream.start(session, chosen)
                try:
                    decoded: np.ndarray = session.run(stream.images)
                except tf.errors.OpError:
                    raise UserError(stream.find_unreadable(session, chosen)) from None
        return decoded


@dataclass(frozen=True)
class ImageNet:
    """What the stages read of a data set (`datasets.Dataset`), with the images left on disk."""

    train_images: ImageFiles
    train_labels: np.ndarray
    test_images: ImageFiles
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    name: str = "imagenet"
    coarse_labels: None = None
    coarse_names: None = None
    verified: bool = True


def refuse_unused(config: Config, names: Sequence[str], why: str) -> None:
    """Refuses flags that no ImageNet script uses.

    Args:
      config: resolved flags.
      names: of the flags, as attributes.
      why: what holds in their place.
    Raises:
      UserError: one of them is not at its default.
    """
    usual = parse_fc(fc_parser("", "imagenet"), [])
    for name in names:
        if getattr(config, name) != getattr(usual, name):
            raise UserError(f"--{name.replace('_', '-')}: not for imagenet, {why}")


def load(config: Config, size: int = SIZE) -> ImageNet:
    """Lists the training and validation images; decodes nothing.

    Args:
      config: resolved flags; used is data_dir (contains ImageNet, or a folder `imagenet`).
      size: to which the images are squashed.
    Raises:
      DatasetError: nothing there, or lists that do not fit.
      UserError: a flag that no ImageNet script uses, or one that would run the CNN in training.
    """
    trains_cnn = getattr(config, "finetune", "none") != "none" or getattr(config, "no_cache_features", False)
    if trains_cnn or config.augment:
        raise UserError(
            "--dataset imagenet: the CNN is pretrained and stays frozen, its features are computed once (C2S-D02); "
            "leave out --finetune, --no-cache-features and --augment"
        )
    fixed = ("train_images", "pixels", "model", "features", "lenet", "lenet_relu")
    refuse_unused(config, fixed, "whose images and network are fixed")
    listings = listing.lists(Path(config.data_dir))
    train, val = listings["train"], listings["val"]
    count = int(max(train.labels.max(), val.labels.max())) + 1
    folders: dict[int, str] = {}
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        folders.setdefault(label, path.parent.name)
    names = tuple(folders.get(k, f"class{k}") for k in range(count))
    if len(set(names)) < count:  # images not sorted into a folder for each class
        names = tuple(f"class{k}" for k in range(count))
    digests = {f"imagenet-{split}.json": _list_digest(listings[split]) for split in ("train", "val")}
    return ImageNet(
        ImageFiles(train.paths, size), train.labels, ImageFiles(val.paths, size), val.labels, names, digests
    )


def _list_digest(images: listing.Listing) -> str:
    """sha256 of the last two parts of each path and the labels: the same for the same list in another place."""
    names = ["/".join(path.parts[-2:]) for path in images.paths]
    return hashlib.sha256(json.dumps([names, images.labels.tolist()]).encode()).hexdigest()
