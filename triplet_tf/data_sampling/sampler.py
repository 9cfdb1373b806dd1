"""Which images a batch holds: a pure function of (seed, batch number), so that a resumed run repeats it. NumPy only.

Source: the released data_sampling/ (P x K batches), which credits VisualComputingInstitute/triplet-reid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

ORDER, CLASSES, FILES = 0, 1, 2  # purposes of a draw; they keep its streams apart


def _generator(seed: int, *words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))


def shuffled(num_images: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Samples for mode vanilla: all images in a new order each epoch, cut into batches that may straddle epochs.

    Args:
      num_images: N.
      batch_size: B.
      seed: 0 or more.
    Returns:
      Batch number from 0 -> image numbers, int64 [B].
    """

    @functools.lru_cache(maxsize=4)  # a batch of more images than the set has spans several epochs
    def order(epoch: int) -> np.ndarray:
        return _generator(seed, ORDER, epoch).permutation(num_images)

    def batch(number: int) -> np.ndarray:
        first = number * batch_size
        return np.array([order(i // num_images)[i % num_images] for i in range(first, first + batch_size)], np.int64)

    return batch


def grouped(labels: np.ndarray, batch_size: int, per_class: int, seed: int) -> Callable[[int], np.ndarray]:
    """Samples for the modes with a ranking loss: P = B / K classes, K images of each, whatever the classes' sizes.

    An epoch is a new order of the classes, cut to a multiple of P (a list of fewer than P classes is tiled first).
    Of a class K images are drawn without replacement; one with fewer is tiled, shuffled and cut.

    Args:
      labels: int64 [N], each of 0..C-1 occurs.
      batch_size: B, a multiple of K.
      per_class: K.
      seed: 0 or more.
    Returns:
      Batch number from 0 -> image numbers, int64 [B], the K images of a class one after the other.
    """
    num_classes = int(labels.max()) + 1
    by_label = np.argsort(labels, kind="stable")
    members = np.split(by_label, np.cumsum(np.bincount(labels))[:-1])
    per_batch = batch_size // per_class
    tiled = np.tile(np.arange(num_classes), -(-per_batch // num_classes))
    per_epoch = len(tiled) // per_batch

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return _generator(seed, CLASSES, epoch).permutation(tiled)

    def batch(number: int) -> np.ndarray:
        epoch, place = divmod(number, per_epoch)
        generator = _generator(seed, FILES, number)
        chosen = []
        for label in order(epoch)[place * per_batch : (place + 1) * per_batch]:
            files = members[label]
            pool = np.tile(files, -(-per_class // len(files)))
            chosen.append(generator.permutation(pool)[:per_class])
        return np.concatenate(chosen).astype(np.int64)

    return batch
