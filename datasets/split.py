"""Seeded stratified splits and subsets.

NumPy's RandomState is used because its streams are frozen: the same seed gives the same split under every
NumPy version, which makes a split part of a data set's definition.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from datasets.core import Dataset, DatasetError

TRAIN_SHARE = 0.8  # of the images of a folder, or of a list, that is split into two parts


def stratified(labels: np.ndarray, take: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Picks `take` items, with an equal share of every class, in a seeded random order.

    Args:
      labels: int64 [N].
      take: how many to pick, 0..N. Each class gives floor(take * n_class / N); what is missing then comes
        from the classes with the largest remainders, the lower class number first.
      seed: 0 or more.

    Returns:
      picked: int64 [take], positions in random order; rest: int64 [N - take], likewise.

    Raises:
      DatasetError: if `take` is not in 0..N.
    """
    total = len(labels)
    if not 0 <= take <= total:
        raise DatasetError(f"cannot take {take} of {total} images")
    order = np.random.RandomState(seed).permutation(total)
    classes, members = np.unique(labels[order], return_inverse=True)
    counts = np.bincount(members, minlength=len(classes)).astype(np.int64)
    quota, remainder = np.divmod(counts * take, max(total, 1))
    short = take - int(quota.sum())
    quota[np.argsort(-remainder, kind="stable")[:short]] += 1
    # Rank of each item among those of its class, in the random order.
    by_class = np.argsort(members, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(total, np.int64)
    rank[by_class] = np.arange(total) - np.repeat(starts, counts)
    chosen = rank < quota[members]
    return order[chosen], order[~chosen]


def subset(dataset: Dataset, train: int = 10000, seed: int = 0) -> Dataset:
    """Returns a fixed stratified part of the training split; the test split is not changed.

    Args:
      dataset: any loaded data set.
      train: number of training images of the result, 1..N; N returns all of them, in their own order.
      seed: 0 or more; decides which part. Equal data, number and seed give equal images in the same order on every
        machine.

    Returns:
      A data set with the same name, classes and digests and `train` training images.

    Raises:
      DatasetError: if `train` is not in 1..N.

    Source: ours; the cpu profiles train on 10,000 of CIFAR's 50,000 images.
    """
    total = len(dataset.train_labels)
    if not 1 <= train <= total:
        raise DatasetError(f"{dataset.name}: cannot take {train} training images of {total}")
    if train == total:
        return dataset
    picked, _ = stratified(dataset.train_labels, train, seed)
    return dataclasses.replace(
        dataset, train_images=dataset.train_images[picked], train_labels=dataset.train_labels[picked]
    )


def sample(images: np.ndarray, most: int, name: str) -> np.ndarray:
    """Returns a few training images that stand for all of them, for constants of a network.

    Args:
      images: uint8 [N, H, W, C], all training images in their order.
      most: the largest number of images of the result.
      name: of the data set. The images of a "folder:PATH" are sorted by class, so evenly spaced ones are taken; of
        the other sets, whose order is mixed, the first ones.

    Returns:
      uint8 [min(N, most), H, W, C].
    """
    count = min(len(images), most)
    return images[np.arange(count) * len(images) // count] if name.startswith("folder:") else images[:count]


def hold_out(dataset: Dataset, count: int) -> Dataset:
    """Makes a fixed stratified part of the training images the test split; the official test split is not used.

    For choosing settings.

    Args:
      dataset: any loaded data set.
      count: number of images of the new test split, 1..N-1. The same ones are held out in every run (split seed 0).

    Raises:
      DatasetError: no training image would be left.
    """
    total = len(dataset.train_labels)
    if not 1 <= count < total:
        raise DatasetError(f"{dataset.name}: cannot hold out {count} of {total} training images")
    held, left = stratified(dataset.train_labels, count, 0)
    images, labels = dataset.train_images, dataset.train_labels
    return dataclasses.replace(
        dataset,
        train_images=images[left],
        train_labels=labels[left],
        test_images=images[held],
        test_labels=labels[held],
    )
