"""Class strings that nobody learns, as controls for those of Class2Str: drawn at random, or a tree of similarity."""

from __future__ import annotations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

CONFIDENT = 20.0  # difference of the logits of a fixed bit: its probability is 1 in float32


def random_codes(num_classes: int, num_bits: int, seed: int) -> np.ndarray:
    """Different strings, drawn without replacement. Returns uint8 [C, L].

    Raises:
      ValueError: there are fewer than C strings of L bits.
    """
    _check(num_classes, num_bits)
    numbers = np.random.default_rng(seed).choice(2**num_bits, num_classes, replace=False)
    return (numbers[:, None] >> np.arange(num_bits - 1, -1, -1) & 1).astype(np.uint8)


def tree_codes(class_means: np.ndarray, num_bits: int) -> np.ndarray:
    """Strings whose prefixes are the clusters of the classes' mean features.

    From the root on, the classes of a node are split in two by average linkage of cosine distances (1 from a mean of
    zeros, which has no direction). Where a side has more classes than its strings have room for, those nearest to the
    other side move over: the tree is balanced to L.

    Args:
      class_means: float [C, F].
      num_bits: L.
    Returns:
      uint8 [C, L], one string a class.
    Raises:
      ValueError: there are fewer than C strings of L bits.
    """
    _check(len(class_means), num_bits)
    codes = np.zeros((len(class_means), num_bits), np.uint8)

    def split(classes: np.ndarray, depth: int) -> None:
        if len(classes) < 2:
            return
        distances = np.nan_to_num(pdist(class_means[classes], "cosine"), nan=1.0)
        linkage = hierarchy.linkage(distances, "average")
        side = hierarchy.fcluster(linkage, 2, "maxclust") == 2
        if side.all() or not side.any():  # all distances are equal
            side = np.arange(len(classes)) >= len(classes) // 2
        room = 2 ** (num_bits - depth - 1)
        for large in (False, True):
            excess = int((side == large).sum()) - room
            if excess > 0:
                members = np.flatnonzero(side == large)
                other = class_means[classes[side != large]].mean(axis=0)
                nearest = members[np.argsort(_cosine_distance(class_means[classes[members]], other), kind="stable")]
                side[nearest[:excess]] = not large
        codes[classes[side], depth] = 1
        split(classes[~side], depth + 1)
        split(classes[side], depth + 1)

    split(np.arange(len(class_means)), 0)
    return codes


def logits_of(codes: np.ndarray) -> np.ndarray:
    """Returns the logits of a Class2Str with certain bits: uint8 [C, L] -> float32 [C, L, 2]."""
    ones = codes.astype(np.float32)
    return CONFIDENT * np.stack([1 - ones, ones], axis=2)


def _cosine_distance(vectors: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other)
    return 1 - vectors @ other / np.maximum(norms, 1e-12)


def _check(num_classes: int, num_bits: int) -> None:
    if num_classes > 2**num_bits:
        raise ValueError(f"{num_classes} classes need more than {num_bits} bits")
