"""ImageNet: a pretrained VGG16 without BN, its pool5 features, its own FC classifier. Optional, and large.

The released stage-1 script trains nothing: it loads the pretrained convolutions and runs the validation set through
pool5. Here one pass over each split writes the features to a memory-mapped .npy (128 GB for the training set), in
blocks, so that a killed run goes on, and measures the FC accuracy of the pretrained head, which the authors never do
(C2S-D25). Images are listed by `datasets.imagenet`, weights checked by `datasets.weights`.
Source: class2str.md sections 3.3 and 6 (D25); authors' train_fc_classifer_imagenet.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from class2str_tf.method.layers import conv, count_parameters, linear, pool, tf, tf1
from class2str_tf.training import imagenet_features as pool5
from datasets import imagenet as listing
from datasets import weights
from datasets.verify import reading
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.record import make_record, versions_of
from reproduction.runtime.run_folder import Run, UserError, open_run, shown

MEAN = (123.68, 116.779, 103.939)  # RGB, subtracted inside the graph as released
SIZE = 224
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in blocks 1 to 5: conv1_1 ... conv5_3
WEIGHTS = "vgg16_weights.npz"


def features(images: tf.Tensor, width: int = 64) -> tf.Tensor:
    """Convolutional part of VGG16, conv1_1 to pool5: 3x3 SAME + bias + ReLU, 2x2 maximum with SAME padding.

    Args:
      images: uint8 or float32 [B, H, W, 3], RGB, 0..255.
      width: channels of the first block; 64 is VGG16.
    Returns:
      float32 [B, F], named features; 25,088 of a 224x224 image. Variables conv1_1/{weights,biases} and so on.
    Source: authors' train_fc_classifer_imagenet.py; class2str.md 3.3.
    """
    x = tf.cast(images, tf.float32) - tf.constant(MEAN)
    for block, count in enumerate(CONVOLUTIONS, 1):
        for index in range(1, count + 1):
            x = tf.nn.relu(conv(x, width * min(2 ** (block - 1), 8), 3, f"conv{block}_{index}"))
        x = pool(x, "SAME", f"pool{block}")
    return tf.identity(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]), name="features")


def classifier(x: tf.Tensor, num_classes: int = 1000, hidden: int = 4096) -> tf.Tensor:
    """VGG16's own head: fc6, ReLU, fc7, ReLU, fc8. float32 [B, F] -> logits [B, C]; no dropout: it is never trained.

    Source: class2str.md 3.1 (the poster's 123.63 M); commented out in the authors' script.
    """
    for name in ("fc6", "fc7"):
        x = tf.nn.relu(linear(x, hidden, name))
    return tf.identity(linear(x, num_classes, "fc8"), name="logits")


def network(images: tf.Tensor, num_classes: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Features and logits of a batch, variables under `cnn` and `classifier` as in stage 1 of the other data sets."""
    with tf1.variable_scope("cnn", reuse=tf1.AUTO_REUSE):
        outputs = features(images, width)
    with tf1.variable_scope("classifier", reuse=tf1.AUTO_REUSE):
        return outputs, classifier(outputs, num_classes, 64 * width)


def assign_weights(session: tf1.Session, path: Path) -> None:
    """Puts the arrays of vgg16_weights.npz into the variables below `cnn` and `classifier`.

    Args:
      session: on a graph of `network`.
      path: npz with conv1_1_W [3, 3, in, out], conv1_1_b [out], ..., fc8_W [in, out], fc8_b.
    Raises:
      DatasetError: damaged, or with pickled objects.
      UserError: an array is missing or has another shape than the network.
    """
    with reading(path):
        found = np.load(path, allow_pickle=False)  # reads an array when it is asked for
        names = set(found.files)
    for variable in tf1.trainable_variables("cnn/") + tf1.trainable_variables("classifier/"):
        layer, kind = variable.op.name.split("/")[-2:]
        name = f"{layer}_{'W' if kind == 'weights' else 'b'}"
        if name not in names:
            raise UserError(f"{shown(path)}: holds no array {name}; expected D. Frossard's {WEIGHTS}")
        with reading(path):
            array = np.asarray(found[name])  # a member that is no array comes as bytes
        if array.shape != tuple(variable.shape.as_list()) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(
                f"{shown(path)}: {name} is {array.dtype} {array.shape}, expected finite floats {variable.shape}; "
                "the images must have as many classes as the weights"
            )
        variable.load(array.astype(np.float32), session)


def decode(path: tf.Tensor, size: int = SIZE) -> tf.Tensor:
    """One image file as the authors feed it, but upright: nearest-neighbour squash to a square.

    Pixel i of the result is pixel floor(i * length / size) of the file, TensorFlow 1's nearest neighbour.

    Args:
      path: scalar string; JPEG (CMYK too), PNG, BMP, or the first frame of a GIF; grey becomes RGB.
      size: height and width.
    Returns:
      uint8 [size, size, 3].
    Source: class2str.md section 4, row input.
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


def load(config: Mapping[str, Any], size: int = SIZE) -> ImageNet:
    """Lists the training and validation images; decodes nothing.

    Args:
      config: resolved flags: data_dir (ImageNet lies in it, or in its folder `imagenet`), finetune where stage 2 asks.
      size: to which the images are squashed.
    Raises:
      DatasetError: nothing there, or lists that do not fit.
      UserError: --finetune all or bn, which no script offers for ImageNet.
    """
    if config.get("finetune", "none") != "none" or config.get("no_cache_features"):
        raise UserError(
            "--dataset imagenet: the CNN is pretrained and stays frozen, its features are computed once (C2S-D02); "
            "leave out --finetune and --no-cache-features"
        )
    found = listing.lists(Path(config["data_dir"]))
    train, val = found["train"], found["val"]
    count = int(max(train.labels.max(), val.labels.max())) + 1
    folders: dict[int, str] = {}
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        folders.setdefault(label, path.parent.name)
    names = tuple(folders.get(k, f"class{k}") for k in range(count))
    if len(set(names)) < count:  # images not sorted into a folder for each class
        names = tuple(f"class{k}" for k in range(count))
    digests = {f"imagenet-{split}.json": _list_digest(found[split]) for split in ("train", "val")}
    return ImageNet(
        ImageFiles(train.paths, size), train.labels, ImageFiles(val.paths, size), val.labels, names, digests
    )


def _list_digest(images: listing.Listing) -> str:
    """sha256 of the last two parts of each path and the labels: the same for the same list in another place."""
    names = ["/".join(path.parts[-2:]) for path in images.paths]
    return hashlib.sha256(json.dumps([names, images.labels.tolist()]).encode()).hexdigest()


def run_fc(config: dict[str, Any], size: int = SIZE) -> None:
    """The whole of train_fc_classifer_imagenet.py: checkpoint, features of both splits, FC accuracy, record.

    Args:
      config: resolved flags of stage 1; `F` is the first width (64), `weights` a path where the flag exists.
      size: of the images.
    Raises:
      UserError, DatasetError: no images, no weights, weights of another network, too small a disk.
    """
    if config.get("eval"):
        raise UserError("--eval: this script trains nothing; its FC accuracy stands in record.json of the run folder")
    with open_run(Path(config["runs_dir"]) / config["name"], config, config["overwrite"]) as run:
        session_config = tf_runtime.start(config["seed"], config["device"], config.get("xla", False))
        seen = run_data.look_at(config)
        data = load(config, size)
        if run_data.is_finished(run, seen, lambda: data.digests):
            return
        given = Path(config["weights"]) if config.get("weights") else None
        accept = config["accept_unverified"]
        path, digest = weights.find(WEIGHTS, Path(config["data_dir"]), given, accept)
        print(f"imagenet: {len(data.train_labels)} training and {len(data.test_labels)} validation images, "
              f"{len(data.class_names)} classes; weights {shown(path)}", flush=True)  # fmt: skip
        with tf1.Graph().as_default():
            tf1.set_random_seed(config["seed"])
            step = tf1.train.get_or_create_global_step()
            stream = Stream(config["B"], size)
            outputs = network(stream.images, len(data.class_names), config["F"])
            with tf_runtime.session(session_config) as session:
                assign_weights(session, path)
                session.run(tf1.assign(step, 1))
                tf_runtime.save_checkpoint(session, tf1.train.Saver(), run.folder / "model-1", keep=[1])
                start = time.monotonic()
                pool5.extract(session, stream, outputs, data, {**data.digests, WEIGHTS: digest}, run)
            _finish(run, data, {**data.digests, WEIGHTS: digest}, accept, time.monotonic() - start)


def fc_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in [0, 1]. float32 [N, C], int64 [N]."""
    return int(np.sum(logits.argmax(axis=1) == labels)) / len(labels)


def _finish(run: Run, data: ImageNet, digests: Mapping[str, str], accepted: bool, seconds: float) -> None:
    """Measures the FC accuracy and writes the record."""
    accuracy = fc_accuracy(np.load(run.folder / "fc-logits-test.npy", mmap_mode="r"), data.test_labels)
    counts = {"cnn": count_parameters("cnn"), "fc": count_parameters("classifier")}
    if accuracy < 3 / len(data.class_names):
        print(
            f"warning: FC accuracy {100 * accuracy:.2f} % is near chance: are the labels in the order of the weights' "
            "1,000 classes (sorted WordNet ids)?",
            file=sys.stderr,
        )
    images = len(data.train_labels) + len(data.test_labels)
    run.finish(
        make_record(
            paper="class2str",
            row=run.config["row"],
            stage="fc",
            seed=run.config["seed"],
            argv=sys.argv,
            config=run.config,
            metrics={"fc_accuracy": {"last": accuracy, "best_on_val": None, "best_on_test": None}},
            details={"parameters": counts},
            curve=None,
            seconds=seconds,
            images_per_s=round(images / max(seconds, 1e-9), 1),
            data=dict(digests),
            data_verified=data.verified and not accepted,
            deviations=["C2S-D08", "C2S-D16", "C2S-D22", "C2S-D25", "C2S-D29"],
            versions=versions_of("tensorflow", "tf-keras", "tf-slim", "numpy"),
            deterministic=True,
            gpu=tf_runtime.gpu_name(),
        )
    )
    print(f"FC accuracy {100 * accuracy:.2f} % of {len(data.test_labels)} validation images, pretrained head")
    print(f"run folder {shown(run.folder)}; pool5 features: features-train.npy, features-test.npy", flush=True)
