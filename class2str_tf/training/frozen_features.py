"""Features of the frozen CNN: constants of stage 2, so they are computed once and stored as .npy in the run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

import datasets
from class2str_tf.data.batches import IN_MEMORY_BYTES, slices
from class2str_tf.flags import ARCHITECTURE, Config, Stage2Config, fc_parser, parse_fc
from class2str_tf.networks import build as networks
from reproduction.runtime import tf_runtime
from reproduction.runtime.arrays import read_npy
from reproduction.runtime.run_folder import UserError, atomic, read_json, shown, write_json
from reproduction.runtime.tf import tf, tf1

NAMES = ("features-train.npy", "features-test.npy", "fc-logits-test.npy")


class Features(NamedTuple):
    """What stage 2 needs of stage 1: float32 [N, F] and FC logits float32 [N_test, C] of the test set."""

    train: np.ndarray
    test: np.ndarray
    fc_logits: np.ndarray


def newest_checkpoint(config: Config) -> Path:
    """Prefix of the newest readable checkpoint in --cnn-dir (C2S-D09: the released scripts name fixed files).

    Raises:
      UserError: there is none; the message holds the command that makes it.
    """
    folder = Path(str(config.cnn_dir))
    present = tf_runtime.checkpoints(folder)
    if not present:
        raise UserError(f"{shown(folder)}: no stage-1 checkpoint; run first: python {stage1_command(config)}")
    return present[0][1]


def stage1_command(config: Config) -> str:
    """The command line that makes the stage 1 in --cnn-dir, with the flags that both stages must share."""
    folder = Path(str(config.cnn_dir)).absolute()
    kind = "classifer_imagenet" if config.dataset == "imagenet" else "classifier"
    words = [f"class2str_tf/train_fc_{kind}.py", "--dataset", config.dataset, "--runs-dir", shown(folder.parent)]
    words += ["--name", folder.name, "--model", config.model]
    usual = parse_fc(fc_parser("", config.dataset), [])
    for flag in ("--F", *ARCHITECTURE, "--train-images", "--hold-out", "--data-dir", "--accept-unverified"):
        name = flag.removeprefix("--").replace("-", "_")
        value = getattr(config, name)
        if value != getattr(usual, name):
            words += [flag] if isinstance(value, bool) or flag == "--hold-out" else [flag, str(value)]
    return shlex.join(words)


def compute(
    config: Stage2Config,
    data: datasets.Dataset,
    prefix: Path,
    folder: Path,
    session_config: Any,
    scratch: Path | None = None,
) -> Features:
    """Returns the features of both splits under one checkpoint, from a run folder if they were computed before.

    Args:
      config: resolved flags of stage 2.
      data: the data set.
      prefix: stage-1 checkpoint.
      folder: folder of features-train.npy, features-test.npy, fc-logits-test.npy and features.json.
      session_config: see `tf_runtime.start`.
      scratch: where to write them if no run folder has them; None: into `folder`.
    """
    if config.dataset == "imagenet":
        from class2str_tf.training import imagenet_features

        command = stage1_command(config)
        return Features(*imagenet_features.open_features(Path(config.cnn_dir), cast(Any, data), command))
    maker: dict[str, Any] = {"stage1": config.stage1, "data": data.digests, "pixels": config.pixels}
    maker |= {name: getattr(config, name) for name in ("hold_out", "train_images") if getattr(config, name)}
    if (precision := tf_runtime.precision_of(session_config)) != "float32":
        maker["precision"] = precision
    first = Path(config.cnn_dir) / "rnn"  # of the row that stage 1 belongs to
    ready = next((home for home in (first, folder) if _holds(home, maker, len(data.train_labels))), None)
    folder = ready or scratch or folder
    if ready is None:
        (folder / "features.json").unlink(missing_ok=True)  # until all three files are new
        with tf1.Graph().as_default():
            tf1.set_random_seed(0)
            tf1.train.get_or_create_global_step()
            images = tf1.placeholder(tf.uint8, [None, *data.train_images.shape[1:]])
            outputs = networks.cnn(images, config, training=False)
            logits = networks.fc_classifier(outputs, config, len(data.class_names), training=False)
            size = config.eval_batch or config.B
            with tf_runtime.session(session_config) as session:
                tf_runtime.restore_for_evaluation(session, prefix, f"{config.model} on {data.name}")
                _write(session, outputs, images, data.train_images, folder / NAMES[0], size)
                _write(session, outputs, images, data.test_images, folder / NAMES[1], size)
                _write(session, logits, images, data.test_images, folder / NAMES[2], size)
        write_json(folder / "features.json", maker)
    return Features(*(_open(folder / name) for name in NAMES))


def _holds(folder: Path, maker: dict[str, Any], count: int) -> bool:
    """Whether a folder holds the features of `maker`, of so many images (older runs do not name --train-images)."""
    stamp = folder / "features.json"
    there = stamp.exists() and all((folder / name).exists() for name in NAMES)
    return there and read_json(stamp) == maker and len(_open(folder / NAMES[0])) == count


def _write(session: Any, output: Any, images: Any, array: np.ndarray, path: Path, batch_size: int) -> None:
    """Runs `output` over all images into a .npy; with write(): on a full disk a memory map kills the process."""
    shape = (len(array), int(output.shape[1]))
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in tqdm(slices(array, batch_size), desc=path.stem, disable=None, leave=False):
            file.write(session.run(output, {images: part}))


def _open(path: Path) -> np.ndarray:
    """A features file: in memory up to IN_MEMORY_BYTES, memory-mapped beyond."""
    big = path.exists() and path.stat().st_size > IN_MEMORY_BYTES
    return read_npy(path, "delete features.json next to it; the same command computes them again", mapped=big)
