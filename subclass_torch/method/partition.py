"""Between the stages: double each neglected class by mixing images, split it by k-means, give the new labels.

NumPy and scikit-learn only. Images are uint8 [N, H, W, C]; only the selected class is converted to float.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 4096  # images turned to float at a time


@dataclass(frozen=True)
class Partition:
    """What stage 2 trains on in addition to the original images.

    Attributes:
      classes: the neglected classes, in descending theta.
      subclass2class: int64 [S].
      labels: int64 [N], subclass of each original image.
      source: int64 [M], the image of the neglected class behind each mixed one.
      partner: int64 [M], the image that is mixed into it.
      mixed_labels: int64 [M], subclass of each mixed image.
    """

    classes: tuple[int, ...]
    subclass2class: np.ndarray
    labels: np.ndarray
    source: np.ndarray
    partner: np.ndarray
    mixed_labels: np.ndarray


def mix(first: np.ndarray, second: np.ndarray, wrap: bool = False) -> np.ndarray:
    """Averages two images or batches, truncated to uint8 (SamplePairing).

    Args:
      first: uint8.
      second: uint8, same shape.
      wrap: let the sum wrap at 256 before the halving, as the released code does.
    Returns:
      uint8, same shape.
    Source: authors' subclassutils.py. Deviation: SDN-D10.
    """
    if wrap:
        return (first + second) // 2  # uint8 arithmetic
    return ((first.astype(np.uint16) + second) // 2).astype(np.uint8)  # DEVIATION SDN-D10: sum in a wider type


def split(pixels: np.ndarray, k: int) -> np.ndarray:
    """Clusters flattened pixels by k-means.

    Args:
      pixels: float32 [n, D], C-contiguous; used as working space (no second copy).
      k: clusters, 1..n.
    Returns:
      int64 [n], cluster of each image; fewer than k clusters if fewer rows are different.
    Source: authors' subclassutils.py (random_state 0). Deviations: SDN-D13 (n_init 10, as scikit-learn had in 2019).
    """
    if k == 1:
        return np.zeros(len(pixels), np.int64)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Two threads add their two partial sums in either order to the same float; more would not.
    with threadpool_limits(limits=2), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: the caller counts
        kmeans = KMeans(n_clusters=k, n_init=10, random_state=0, copy_x=False)  # DEVIATION SDN-D13: n_init fixed
        return kmeans.fit_predict(pixels).astype(np.int64)


def make_partition(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[int],
    k: int,
    num_classes: int,
    view: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    partners: Callable[[int, int], np.ndarray],
    wrap: bool = False,
) -> Partition:
    """Augments and splits the neglected classes.

    Args:
      images: uint8 [N, H, W, C].
      labels: int64 [N], in 0..num_classes-1.
      classes: neglected classes in order of treatment; empty leaves everything as it is (S = C).
      k: subclasses per class, >= 1.
      num_classes: C.
      view: (class, uint8 [n, H, W, C], int64 [n] position in the class's 2 N_c images) -> float32, what k-means sees.
      partners: (class, count) -> int64 [count] in 0..N-1, the partner of each of the class's images.
      wrap: as in `mix`.
    Returns:
      The partition. Cluster 0 has the class's label, the other clusters get the next free labels: S = C + sum (k - 1).
    Raises:
      ValueError: a class is named twice, does not exist, or has too few (different) images.
    Source: authors' subclassutils.py.
    """
    if len(set(classes)) != len(classes) or any(not 0 <= c < num_classes for c in classes):
        raise ValueError(f"neglected classes {list(classes)}: different classes in 0..{num_classes - 1} are needed")
    new_labels, mapping = labels.astype(np.int64), list(range(num_classes))
    sources, mates, mixed_labels = ([np.empty(0, np.int64)] for _ in range(3))
    for label in classes:
        members = np.flatnonzero(labels == label)
        if 2 * len(members) < k or len(members) == 0:
            raise ValueError(f"class {label} holds {len(members)} images, too few for {k} subclasses")
        mate = partners(label, len(members))
        pixels = np.empty((2 * len(members), int(np.prod(images.shape[1:]))), np.float32)
        for at in range(0, len(members), _CHUNK):  # DEVIATION SDN-D14: float32 of the selected class only
            originals = images[members[at : at + _CHUNK]]
            mixed = mix(originals, images[mate[at : at + _CHUNK]], wrap)
            place = np.arange(at, at + len(originals))
            for part, position in ((originals, place), (mixed, place + len(members))):
                pixels[position] = view(label, part, position).reshape(len(part), -1)
        cluster = split(pixels, k)
        del pixels
        if (different := len(np.unique(cluster))) < k:
            raise ValueError(f"class {label} holds {different} different images, too few for {k} subclasses")
        names = np.array([label, *range(len(mapping), len(mapping) + k - 1)])
        mapping += [label] * (k - 1)
        new_labels[members] = names[cluster[: len(members)]]
        sources.append(members)
        mates.append(mate)
        mixed_labels.append(names[cluster[len(members) :]])
    source, partner, of_mixed = (np.concatenate(parts).astype(np.int64) for parts in (sources, mates, mixed_labels))
    return Partition(tuple(int(c) for c in classes), np.array(mapping, np.int64), new_labels, source, partner, of_mixed)


def training_set(images: np.ndarray, partition: Partition, wrap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Lists the originals, followed by the mixed images, with their subclass labels.

    Args:
      images: uint8 [N, H, W, C], the originals.
      partition: of these images.
      wrap: as in `mix`.
    Returns:
      uint8 [N + M, H, W, C] and int64 [N + M].
    """
    if not len(partition.source):
        return images, partition.labels
    both = np.empty((len(images) + len(partition.source), *images.shape[1:]), np.uint8)
    both[: len(images)] = images
    for at in range(0, len(partition.source), _CHUNK):
        rows = slice(at, at + _CHUNK)
        mixed = mix(images[partition.source[rows]], images[partition.partner[rows]], wrap)
        both[len(images) + at : len(images) + at + len(mixed)] = mixed
    return both, np.concatenate([partition.labels, partition.mixed_labels])
