"""How alike two classes are, from confusions, scores, weights or responses; and the dendrogram that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from hierarchy_cnn_torch.method.trees import check_levels

MOST_IMAGES = 2**53  # whole numbers up to here are exact in float64, in which matrices and the viewer's page add up
BATCH = 4096  # images of `score_correlation`


def check_confusion(counts: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Checks a confusion matrix that came from outside.

    Args:
      counts: of any type and shape.
      names: class names, or None.
    Returns:
      int64 [K, K].
    Raises:
      ValueError: not square, negative, fractional, not finite, more than MOST_IMAGES in all, or the number of names
        differs.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] < 2:
        raise ValueError(f"confusion matrix: shape {counts.shape}, a square of at least 2 x 2 is needed")
    if counts.dtype.kind not in "iufb":
        raise ValueError(f"confusion matrix: dtype {counts.dtype}, counts are needed")
    if not np.isfinite(counts.astype(float)).all():
        raise ValueError("confusion matrix: holds values that are not finite")
    if (counts < 0).any():
        row, column = np.argwhere(counts < 0)[0]
        raise ValueError(f"confusion matrix: negative count {counts[row, column]} at row {row}, column {column}")
    if counts.dtype.kind == "f" and (counts != np.floor(counts)).any():
        row, column = np.argwhere(counts != np.floor(counts))[0]
        raise ValueError(
            f"confusion matrix: fractional count {counts[row, column]:g} at row {row}, column {column}; "
            "give counts of images, not rates"
        )
    if max(counts.max(), counts.sum(dtype=np.float64)) > MOST_IMAGES:
        raise ValueError(
            f"confusion matrix: {counts.sum(dtype=np.float64):.4g} images in all; at most {MOST_IMAGES:,} (2^53) are "
            "counted exactly"
        )
    if names is not None and len(names) != counts.shape[0]:
        raise ValueError(f"names: {len(names)} names for a confusion matrix of {counts.shape[0]} classes")
    return counts.astype(np.int64)


def row_normalised(counts: np.ndarray) -> np.ndarray:
    """Divides rows by their sums, float64 [K, K]; a row without images stays zero.

    Args:
      counts: int [K, K].
    """
    totals = counts.sum(1, keepdims=True)
    return counts / np.where(totals == 0, 1, totals)


def as_distance(distance: np.ndarray) -> np.ndarray:
    """Makes a distance fit for `squareform`: symmetric, zero diagonal, no negatives from rounding.

    Args:
      distance: float [K, K].
    """
    distance = np.asarray(distance, np.float64)
    distance = np.clip((distance + distance.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    return distance


def correlation(rows: np.ndarray) -> np.ndarray:
    """Returns the Pearson correlation of rows, float64 [K, K]; a constant row correlates 0 with all others.

    Args:
      rows: float [K, M].
    """
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-12)
    values = np.clip(rows @ rows.T, -1, 1)
    np.fill_diagonal(values, 1)
    return values


def confusion_distance(counts: np.ndarray) -> np.ndarray:
    """Returns 1 - S / max S, float64 [K, K], where S is the mean of the two confusion rates of each pair.

    Most pairs tie at 1 on sparse matrices: never use complete linkage.

    Args:
      counts: int [K, K], rows actual.
    """
    rates = row_normalised(counts)
    similarity = (rates + rates.T) / 2
    np.fill_diagonal(similarity, 0)
    return as_distance(1 - similarity / max(similarity.max(), 1e-300))


def profile_distance(counts: np.ndarray) -> np.ndarray:
    """Returns 1 - correlation of the rows of [sqrt P | sqrt P^T], the classes' confusion profiles; default for counts.

    Args:
      counts: int [K, K], rows actual; P are its row shares.
    """
    root = np.sqrt(row_normalised(counts))
    return as_distance(1 - correlation(np.concatenate([root, root.T], 1)))


def profile_correlation_distance(rows: np.ndarray) -> np.ndarray:
    """Returns 1 - correlation of class rows, float64 [K, K].

    Args:
      rows: last-layer weights [K, F], or class responses [K, M].
    """
    return as_distance(1 - correlation(rows))


def score_correlation(scores: np.ndarray) -> np.ndarray:
    """Computes the correlation of the score columns over images; a constant column correlates 0 with all others.

    Sums are float64 and shifted by the first batch's mean, so that large common offsets cost no digits. Batches keep
    the memory small.

    Args:
      scores: float [N, K].
    Returns:
      float64 [K, K].
    """
    num_classes = scores.shape[1]
    shift, sums, products = np.zeros(num_classes), np.zeros(num_classes), np.zeros((num_classes, num_classes))
    for start in range(0, len(scores), BATCH):
        batch = np.asarray(scores[start : start + BATCH], np.float64)
        if start == 0:
            shift = batch.mean(0)
        centred = batch - shift
        sums += centred.sum(0)
        products += centred.T @ centred
    covariance = products - np.outer(sums, sums) / max(len(scores), 1)
    sd = np.sqrt(np.clip(np.diag(covariance), 0, None))
    values = np.divide(covariance, np.outer(sd, sd), out=np.zeros_like(covariance), where=np.outer(sd, sd) > 1e-12)
    np.fill_diagonal(values, 1)
    return np.clip(values, -1, 1)


def score_distance(scores: np.ndarray) -> np.ndarray:
    """Returns 1 - correlation of score columns, negatives set to 0 (the authors' follow-up notebook).

    Args:
      scores: logits (or other scores), float [N, K].
    """
    return as_distance(1 - np.clip(score_correlation(scores), 0, None))


def dendrogram(distance: np.ndarray) -> np.ndarray:
    """Returns SciPy's average linkage of a class distance, which takes it in its condensed form.

    Centroid and median have inversions, which make cuts meaningless; complete needs dense distances.

    Args:
      distance: float [K, K], symmetric, zero diagonal.
    """
    return linkage(squareform(as_distance(distance), checks=False), "average")


def check_sizes(sizes: Sequence[int], num_classes: int) -> None:
    """Checks numbers of groups that a user asks for.

    Args:
      sizes: --levels.
      num_classes: K.
    Raises:
      ValueError: a size is not in [2, K - 1].
    """
    for size in sizes:
        if not 2 <= size < num_classes:
            raise ValueError(f"--levels: {size} groups, allowed are 2 to {num_classes - 1} for {num_classes} classes")


def lacking(levels: Sequence[np.ndarray], sizes: Sequence[int]) -> str:
    """Returns what to print if a dendrogram has no levels of the sizes asked for; "" if it has them all.

    Args:
      levels: as `cut` returns.
      sizes: --levels.
    """
    present = [int(level.max()) + 1 for level in levels]
    if set(sizes) <= set(present):
        return ""
    asked = ",".join(map(str, sizes))
    have = f"only levels of {', '.join(map(str, present))} groups" if present else "no level at all"
    return f"--levels {asked}: {have}, since classes lie equally far from each other (as where none are confused)"


def cut(merged: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Returns levels of a dendrogram.

    Args:
      merged: SciPy linkage of K classes.
      sizes: groups of each level, in any order; a level can come out smaller if heights tie, repeated ones are dropped.
    Returns:
      int64 [K] for each level, coarsest first, nested.
    Raises:
      ValueError: a size is not in [2, K - 1].
    """
    num_classes = len(merged) + 1
    levels: list[np.ndarray] = []
    check_sizes(sorted(set(sizes)), num_classes)
    for size in sorted(set(sizes)):
        level = fcluster(merged, size, "maxclust")
        count = len(np.unique(level))
        if count > 1 and not (levels and count == len(np.unique(levels[-1]))):
            levels.append(level)
    return check_levels(levels, num_classes)


def default_sizes(num_classes: int) -> list[int]:
    """Returns groups of each level if nobody asks for numbers: 2, about the middle, about one group in five classes.

    Args:
      num_classes: K.
    """
    if num_classes < 5:
        return [2] if num_classes > 2 else []
    if num_classes <= 20:
        return sorted({2, max(3, num_classes // 2 - 1)})
    return sorted({2, round(2 * (num_classes / 10) ** 0.5), round(num_classes / 5)})
