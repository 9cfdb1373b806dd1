"""Loads the images of a run, pads them to 32x32, and computes the constants that normalize them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import datasets
from reproduction.runtime.run_folder import UserError
from subclass_torch.flags import Config

SIZE = 32
# Mean and standard deviation on the 0-255 scale [authors' notebook.py]; CIFAR-100 takes CIFAR-10's, as they do.
_CIFAR = ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
NORMALIZATION = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": ((109.9, 109.7, 113.8), (50.1, 50.6, 50.8)),
}


@dataclass(frozen=True)
class Images:
    """A data set ready for a run: uint8 [N, 32, 32, C], int64 labels, normalization, and what the record needs."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digests: Mapping[str, str]
    verified: bool

    @property
    def channels(self) -> int:
        """C: 1 for digits, 3 for photographs."""
        return int(self.train_images.shape[3])


def to_size(images: np.ndarray) -> np.ndarray:
    """Pads smaller images (MNIST: 28x28) with a black border to 32x32.

    Args:
      images: uint8 [N, H, W, C].
    Returns:
      uint8 [N, 32, 32, C].
    Raises:
      UserError: larger than 32x32.
    """
    height, width = images.shape[1:3]
    if height > SIZE or width > SIZE:
        raise UserError(f"--dataset: images of {height}x{width} pixels; at most {SIZE}x{SIZE} are supported")
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    if (height, width) == (SIZE, SIZE):
        return images
    return np.pad(images, ((0, 0), (top, SIZE - height - top), (left, SIZE - width - left), (0, 0)))


def constants_of(name: str, train_images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel (0-255): the authors' or, if unknown, the training set's.

    Of a large set every k-th image counts, 10,000 to 20,000 of them. Values are rounded to one digit.
    """
    if name in NORMALIZATION:
        return NORMALIZATION[name]
    some = train_images[:: max(1, len(train_images) // 10000)]  # a folder's images may be sorted by class
    pixels = some.reshape(-1, train_images.shape[3]).astype(np.float64)
    mean, std = pixels.mean(0), pixels.std(0)
    return tuple(round(float(m), 1) for m in mean), tuple(max(round(float(s), 1), 1.0) for s in std)


def load(config: Config) -> Images:
    """Loads `--dataset`, or the subset that `--subset` names, as images of 32x32.

    Raises:
      datasets.DatasetError: missing or damaged files.
      UserError: fewer classes than `--numClasses2Repartition` needs, or no image left to train on.
    """
    options: dict[str, Any] = {"size": SIZE} if config.dataset.startswith("folder:") else {}
    ds = datasets.load(config.dataset, config.data_dir, config.accept_unverified, **options)
    if config.holdout >= len(ds.train_labels):
        have = f"{ds.name} has {len(ds.train_labels)} training images"
        raise UserError(f"--holdout {config.holdout}: {have}; expected fewer")
    if config.holdout:
        ds = datasets.hold_out(ds, config.holdout)
    if config.subset:
        ds = datasets.subset(ds, train=config.subset, seed=0)
    wanted, classes = config.numClasses2Repartition, len(ds.class_names)
    most = classes // 2 if config.repartition == "random" else classes
    if (config.subclass or config.neglected) and wanted > most:
        raise UserError(f"--numClasses2Repartition {wanted}: {ds.name} has {classes} classes; expected at most {most}")
    train = to_size(ds.train_images)
    mean, std = constants_of(ds.name, train)
    return Images(
        name=ds.name,
        train_images=train,
        train_labels=ds.train_labels,
        test_images=to_size(ds.test_images),
        test_labels=ds.test_labels,
        class_names=tuple(ds.class_names),
        mean=mean,
        std=std,
        digests=ds.digests,
        verified=ds.verified,
    )
