"""The data sets of the paper: coarse and fine labels, images at the network's size, and how they become batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import datasets
from datasets import pathmnist
from reproduction.runtime import torch_runtime as runtime

CIFAR10_COARSE = (0, 0, 1, 1, 1, 1, 1, 1, 0, 0)  # authors' dataloader_simple.py
CIFAR10_COARSE_NAMES = ("vehicles", "animals")
DIGITS_COARSE = (0, 0, 0, 0, 0, 1, 1, 1, 1, 1)
DIGITS_COARSE_NAMES = ("digits 0-4", "digits 5-9")
PADDED = 32  # digits are brought to this size
SHIFT = 2  # pixels, of `shifted`

Constants = tuple[tuple[float, ...], tuple[float, ...]]
_CIFAR: Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_DIGITS: Constants = ((0.1307,) * 3, (0.3081,) * 3)  # the constants usual for MNIST; ours
NORMALIZATION: dict[str, Constants] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "mnist": _DIGITS,
    "mnist5k": _DIGITS,
    "pathmnist": ((0.5,) * 3, (0.5,) * 3),
}


@dataclass(frozen=True)
class Split:
    """Images of one split: uint8 [N, H, W, 3], coarse int64 [N], fine int64 [N] (-1 where unknown)."""

    images: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray


@dataclass(frozen=True)
class Data:
    """A data set ready for the pipeline.

    Attributes:
      train: in file order, as the other splits.
      test: the split on which results are reported.
      validation: None if the set has no official one.
      coarse_names: C names.
      fine_names: S names of the known subclasses, () if none are known.
      mean: of the pixels of each channel, on the 0-1 scale.
      std: likewise.
      digests: sha256 of each file, for the record.
      verified: whether these are the published ones.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    coarse_names: tuple[str, ...]
    fine_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digests: Mapping[str, str]
    verified: bool

    @property
    def num_coarse_labels(self) -> int:
        """C."""
        return len(self.coarse_names)

    @property
    def num_sub_labels(self) -> int:
        """Number of known subclasses, 0 where none are known."""
        return len(self.fine_names)


def three_channels(images: np.ndarray, size: int = 0) -> np.ndarray:
    """Grey images get three equal channels, and a black border up to `size` (0: none).

    Args:
      images: uint8 [N, H, W, 1 or 3].
    Returns:
      uint8 [N, H', W', 3].
    """
    height, width = images.shape[1:3]
    if size and (height < size or width < size):
        top, left = (size - height) // 2, (size - width) // 2
        images = np.pad(images, ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0)))
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def load(
    name: str, data_dir: str, accept_unverified: bool = False, limit_train: int = 0, hold_out: bool = False
) -> Data:
    """Loads a data set with its grouping, or the fixed part of it that `limit_train` names.

    CIFAR-10: vehicles and animals; CIFAR-100: its 20 superclasses; digits: below 5 or not (ours); PathMNIST and
    folders: their classes are the coarse ones and no subclasses are known.

    Args:
      name: as --dataset.
      data_dir: where the data sets lie.
      accept_unverified: whether files with another checksum are read.
      limit_train: number of training images; 0: all.
      hold_out: whether a fixed fifth of them is the test split instead of the official one.
    Raises:
      datasets.DatasetError: missing or damaged files.
    """
    # DEVIATION FGL-D30: shared preparers, which keep the original training order; nothing goes into the source folder
    ds = datasets.load(name, data_dir, accept_unverified)
    official = pathmnist.validation(Path(data_dir), accept_unverified) if name == "pathmnist" else None
    if limit_train:
        ds = datasets.subset(ds, train=limit_train, seed=0)
    if hold_out:
        ds = datasets.hold_out(ds, len(ds.train_labels) // 5)
    grouped, coarse_names, fine_names = grouping(ds)
    size = PADDED if ds.train_images.shape[3] == 1 else 0  # DEVIATION FGL-D02: three equal channels padded to 32x32

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        if grouped is None:
            return Split(three_channels(images, size), labels, np.full(len(labels), -1, np.int64))
        return Split(three_channels(images, size), grouped[labels], labels)

    train = split(ds.train_images, ds.train_labels)
    mean, std = NORMALIZATION.get(ds.name) or _constants(train.images)
    return Data(
        name=short_name(name),
        train=train,
        test=split(ds.test_images, ds.test_labels),
        validation=None if official is None else split(*official),
        coarse_names=coarse_names,
        fine_names=fine_names,
        mean=mean,
        std=std,
        digests=ds.digests,
        verified=ds.verified,
    )


def grouping(ds: datasets.Dataset) -> tuple[np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """Coarse class of each class (None: the classes are the coarse ones), coarse names, fine names."""
    if ds.name == "cifar10":
        return np.array(CIFAR10_COARSE, np.int64), CIFAR10_COARSE_NAMES, tuple(ds.class_names)
    if ds.name in ("mnist", "mnist5k"):
        # DEVIATION FGL-D02: digits are grouped as "at least 5 or not"; the release names mnist but has no grouping
        return np.array(DIGITS_COARSE, np.int64), DIGITS_COARSE_NAMES, tuple(ds.class_names)
    if ds.coarse_labels is not None:
        return ds.coarse_labels, tuple(ds.coarse_names or ()), tuple(ds.class_names)
    return None, tuple(ds.class_names), ()


def short_name(name: str) -> str:
    """The name of a data set as folders show it; of folder:PATH its last part."""
    word = name.removeprefix("folder:").rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in word) or "folder"


def _constants(images: np.ndarray) -> Constants:
    """Mean and deviation per channel of about 10,000 images, on the 0-1 scale, rounded to 4 digits.

    They lie evenly over all images, because a folder's images are sorted by class.
    """
    pixels = images[:: max(1, len(images) // 10000)].reshape(-1, 3).astype(np.float64) / 255
    mean, std = pixels.mean(0), pixels.std(0)
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 0.01) for s in std)


def content_hash(data: Data) -> str:
    """Hash of what the stages compute from: labels, files' digests, normalization, first and last images."""
    digest = hashlib.sha256()
    for part in (data.train, data.test, *([data.validation] if data.validation else [])):
        digest.update(part.coarse.tobytes() + part.fine.tobytes())
        digest.update(part.images[:64].tobytes() + part.images[-64:].tobytes())
    digest.update(repr((sorted(data.digests.items()), data.mean, data.std)).encode())
    return digest.hexdigest()[:16]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images / 255 - mean) / std per channel.

    Args:
      images: uint8 [B, 3, H, W].
      mean: float [3] on the 0-1 scale.
      std: float [3] on the 0-1 scale, > 0.
    Returns:
      float [B, 3, H, W] of the constants' dtype.
    """
    scale, offset = 1 / (255 * std), -mean / std
    return torch.addcmul(offset[:, None, None], images.to(std.dtype), scale[:, None, None])


def draw_shifts(count: int, generator: torch.Generator) -> Tensor:
    """Draws the augmentation of so many images at once.

    Args:
      count: N images.
      generator: on the CPU, so that every device gets the same draws.
    Returns:
      int64 [3, N]: rows down and columns to the right, -SHIFT to SHIFT each; 1 where an image is mirrored, else 0.
    """
    moves = torch.randint(-SHIFT, SHIFT + 1, (2, count), generator=generator)
    return torch.cat([moves, torch.randint(2, (1, count), generator=generator)])


def shifted(images: Tensor, draws: Tensor) -> Tensor:
    """Moves each image by up to SHIFT pixels (the border is repeated) and mirrors some of them, on their device.

    Args:
      images: uint8 [B, 3, H, W].
      draws: int64 [3, B] of `draw_shifts`, on the same device.
    Returns:
      uint8 [B, 3, H, W], channels-last.
    """
    count, _, height, width = images.shape
    down, right, mirrored = draws[:, :, None]
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    columns = torch.where(mirrored > 0, columns.flip(1), columns)
    at = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def planes(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] as a tensor [N, 3, H, W], contiguous."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


Batch = tuple[Tensor, Tensor, Tensor]  # images uint8 [B, 3, H, W], fine int64 [B], coarse int64 [B]


class Items(Dataset):
    """Images and labels in memory; an index is a whole batch of positions, so that no item is collated."""

    def __init__(self, images: Tensor, fine: Tensor, coarse: Tensor):
        """Stores the tensors.

        Args:
          images: uint8 [N, 3, H, W].
          fine: int64 [N].
          coarse: int64 [N].
        """
        self.images, self.fine, self.coarse = images, fine, coarse

    @classmethod
    def of(cls, split: Split) -> Items:
        """The items of a split, with the known subclasses."""
        return cls(planes(split.images), torch.from_numpy(split.fine), torch.from_numpy(split.coarse))

    def to(self, device: torch.device) -> Items:
        """The items on a device, from where batches are taken without a copy to it."""
        return Items(self.images.to(device), self.fine.to(device), self.coarse.to(device))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: Tensor) -> Batch:
        return self.images[positions], self.fine[positions], self.coarse[positions]


class Batches(Sampler[Tensor]):
    """Positions of each batch of an epoch, in an order that is a function of (seed, stage, epoch) alone.

    Each process takes its share of every batch; the last batch is left out if it cannot give each process `least`.
    """

    def __init__(self, positions: np.ndarray, batch_size: int, key: tuple[int | str, ...] | None, least: int = 1):
        """Stores what decides the batches.

        Args:
          positions: int64 [n], of the images that are used.
          batch_size: of all processes together.
          key: seeds of the order, (seed, stage); None keeps the order, for evaluation.
          least: images of a process in the last batch.
        """
        self.positions, self.batch_size, self.key, self.least = torch.from_numpy(positions), batch_size, key, least
        self.epoch, self.device = 0, torch.device("cpu")  # the device that the positions are given on

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        size = self._processes()[1]
        whole, remainder = divmod(len(self.positions), self.batch_size)
        return whole + (remainder >= self.least * size)

    def __iter__(self) -> Iterator[Tensor]:
        rank, size = self._processes()
        order = self.positions
        if self.key is not None:  # DEVIATION FGL-D20: always shuffled, CIFAR-10's pseudo-label batches too
            order = order[torch.randperm(len(order), generator=runtime.generator(*self.key, "order", self.epoch))]
        for number, batch in enumerate(runtime.upload(order, self.device).split(self.batch_size)):
            if number < len(self):
                yield batch[rank::size]

    @staticmethod
    def _processes() -> tuple[int, int]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1


def loader(items: Items, batches: Batches, workers: int = 0) -> DataLoader:
    """A loader whose sampler gives whole batches (batch_size None: nothing is collated)."""
    return DataLoader(items, batch_size=None, sampler=batches, num_workers=workers, persistent_workers=workers > 0)
