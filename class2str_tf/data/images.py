"""The data set of a configuration, as arrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import datasets
from class2str_tf.flags import FIRST, Config
from class2str_tf.method.string_tree import CIFAR10_SUPERCLASSES
from reproduction.runtime.run_folder import UserError


def load(config: Config) -> datasets.Dataset:
    """Loads the data set, with --train-images applied.

    Returns:
      uint8 [N, H, W, C] images and int64 [N] labels of both splits; ImageNet's images stay on disk.
    Raises:
      DatasetError: missing or damaged files.
      UserError: more first images asked for than there are.
    """
    if config.dataset == "imagenet":
        from class2str_tf.data import imagenet  # imports TensorFlow

        return imagenet.load(config)  # type: ignore[return-value]  # the same attributes
    data = datasets.load(config.dataset, Path(config.data_dir), config.accept_unverified)
    wanted = config.train_images
    if isinstance(wanted, str):
        data = first_images(data, int(wanted.removeprefix(FIRST)))
    elif wanted:
        data = datasets.subset(data, train=wanted, seed=0)
    return datasets.hold_out(data, len(data.train_labels) // 5) if config.hold_out else data


def first_images(data: datasets.Dataset, count: int) -> datasets.Dataset:
    """The first training images in the order of the files; the test split stays whole.

    Raises:
      UserError: there are fewer.
    """
    total = len(data.train_labels)
    if count > total:
        raise UserError(f"--train-images {FIRST}{count}: {data.name} has {total} training images")
    return dataclasses.replace(data, train_images=data.train_images[:count], train_labels=data.train_labels[:count])


def superclasses(data: datasets.Dataset) -> np.ndarray | None:
    """Known superclass of each class, int64 [C], or None."""
    if data.coarse_labels is not None:
        return np.asarray(data.coarse_labels)
    return np.asarray(CIFAR10_SUPERCLASSES) if data.name == "cifar10" else None
