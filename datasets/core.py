"""What a data set is once it is in memory, and the one error that every reader raises."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REPO_ROOT = Path(__file__).resolve().parent.parent
DATA_ROOT = REPO_ROOT / "data"


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message is one line: file, reason, what to run."""

    def __init__(self, message: str) -> None:
        """Keeps the message on one line, whatever a file name or a server put into it."""
        super().__init__(" ".join(message.split()))


class NoNetwork(DatasetError):
    """A file that is not on this machine, and no host that could send it answers."""


def name_of(path: Path) -> str:
    """The last part of a path as text: file names are bytes, and a C locale does not read them as UTF-8.

    Raises:
      DatasetError: the name is not UTF-8, so no record and no plot could contain it.
    """
    try:
        return os.fsencode(path.name).decode("utf-8")
    except UnicodeDecodeError:
        raise DatasetError(f"{ascii(str(path))}: this name is not UTF-8; rename it") from None


def file_error(name: str, error: OSError) -> DatasetError:
    """The error for a file of the set `name` that cannot be read or written; the system does not always name it."""
    place = f"{error.filename}: " if error.filename else ""
    return DatasetError(f"{name}: {place}{error.strerror or error}; see --data-dir")


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one data set.

    Attributes:
      name: the name it was loaded under.
      train_images: uint8 [N, H, W, C], 0..255; may be a read-only memory map.
      train_labels: int64 [N], 0..num_classes-1.
      test_images: uint8 [M, H, W, C].
      test_labels: int64 [M].
      class_names: one name for each class.
      coarse_labels: int64 [num_classes], the superclass of each class, or None.
      coarse_names: one name for each superclass, or None.
      digests: sha256 of each file that was read, by file name.
      verified: True if every file equals the one that the manifest names; False for files accepted with
        --accept-unverified and for a user's own folder.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    coarse_labels: np.ndarray | None = None
    coarse_names: tuple[str, ...] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    verified: bool = True

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __post_init__(self) -> None:
        """Refuses arrays that no reader may hand on (wrong type, shape or label range)."""
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            what = f"{self.name}, {split} split"
            if images.dtype != np.uint8 or images.ndim != 4:
                raise DatasetError(f"{what}: images are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                raise DatasetError(f"{what}: labels are {labels.dtype} {labels.shape} for {len(images)} images")
            check_labels(labels, self.num_classes, what)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DatasetError(
                f"{self.name}: train images are {self.train_images.shape[1:]}, test images {self.test_images.shape[1:]}"
            )
        if self.coarse_labels is not None:
            check_labels(self.coarse_labels, len(self.coarse_names or ()), f"{self.name}, superclasses")


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raises DatasetError if a label is outside 0..num_classes-1.

    Args:
      labels: integers [N].
      num_classes: number of classes.
      what: the file or split, for the message.

    Raises:
      DatasetError: with the first bad label and its position.
    """
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise DatasetError(f"{what}: label {labels[bad[0]]} at position {bad[0]} is not in 0..{num_classes - 1}")
