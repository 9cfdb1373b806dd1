"""How well one feature channel separates a group of classes, and how well the best of many does by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import hypergeom, rankdata

from hierarchy_cnn_torch.method.statistics import distinct_splits

EXACT_BELOW = 1000  # groupings; 10 classes in two groups of 4 and 6 have 210


def sample_selectivity(responses: np.ndarray, members: np.ndarray, block: int = 64) -> np.ndarray:
    """Returns for each channel the share of the group among the k rows that excite it most, k being the group's size.

    With images as rows this is S_img(n, G), ours; with the mean responses of classes it is S(n, G), the paper's measure
    as we remember it, which says nothing with about 10 classes.

    Args:
      responses: float [N, M] (a memory map will do: columns are read in blocks).
      members: bool [N], row in the group.
      block: columns at a time.
    Returns:
      float64 [M] in [0, 1]. Rows that tie across the border count by their expected share.
    Raises:
      ValueError: the group holds none or all rows.
    """
    k = int(np.sum(members))
    if not 0 < k < len(members):
        raise ValueError("a group must hold some but not all")
    return top_class_counts(responses, np.asarray(members, np.int64), 2, k, block)[1] / k


def top_class_counts(
    responses: np.ndarray, labels: np.ndarray, num_classes: int, k: int, block: int = 64
) -> np.ndarray:
    """Counts how many of each channel's top k images belong to each class.

    Args:
      responses: float [N, M] or memory map.
      labels: int [N].
      num_classes: K.
      k: images counted for each channel.
      block: columns at a time.
    Returns:
      float64 [num_classes, M]; images that tie across the border count by their expected share.
    """
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    parts = []
    for start in range(0, responses.shape[1], block):
        values = np.asarray(responses[:, start : start + block], np.float32)
        threshold = np.partition(values, len(values) - k, axis=0)[len(values) - k]
        above, ties = values > threshold, values == threshold
        share = (k - above.sum(0)) / ties.sum(0)
        parts.append(one_hot.T @ (above + ties * share.astype(np.float32)))
    return np.concatenate(parts, 1).astype(np.float64)


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Returns the probability that a positive ranks above a negative, ties half; NaN if one kind is missing.

    Args:
      values: float [N].
      positive: bool [N].
    """
    positive = np.asarray(positive, bool)
    p = int(positive.sum())
    n = len(positive) - p
    if p == 0 or n == 0:
        return float("nan")
    return float((rankdata(values)[positive].sum() - p * (p + 1) / 2) / (p * n))


def column_order(responses: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orders channels by relevance to a group: selectivity descending, ties by AUROC over the rows.

    Args:
      responses: float [K, M] or [N, M].
      members: bool, rows of the group.
    Returns:
      (int64 [M] channel order, float64 [M] selectivity of each channel).
    """
    share = sample_selectivity(responses, members)
    area = rankdata(np.asarray(responses, np.float64), axis=0)[np.asarray(members, bool)].sum(0)
    return np.lexsort((-area, -share)), share


def random_best(num_classes: int, group_size: int, channels: int) -> float:
    """Returns, exactly, the best class-rank selectivity of many independent channels whose ranks mean nothing.

    Args:
      num_classes: K.
      group_size: m classes in the group.
      channels: M.
    Returns:
      Mean of the maximum over M of Hypergeometric(K, m, m) / m.
    """
    hits = np.arange(group_size + 1)
    below = hypergeom.cdf(hits, num_classes, group_size, group_size) ** channels
    return float((hits * np.diff(below, prepend=0.0)).sum() / group_size)


def best_with_null(
    responses: np.ndarray,
    labels: np.ndarray,
    level: np.ndarray,
    permutations: int = 200,
    seed: int = 0,
    exact_below: int = EXACT_BELOW,
) -> dict[str, Any]:
    """Finds the best channel of each group of a level (images as rows), and the same for other groups of equal sizes.

    A grouping moves whole classes between groups, so channels keep their correlations and classes their images. If
    fewer than `exact_below` groupings exist, all are tried, also the level's own, else `permutations` random ones.

    Args:
      responses: float [N, M] or memory map.
      labels: int [N] classes.
      level: int [K] group labels.
      permutations: number of random groupings.
      seed: of the random groupings.
      exact_below: number of groupings from which on only random ones are tried.
    Returns:
      best: mean over groups of the best channel's S_img; groups, channels: of each group; null: float64 [P] of the same
      mean for each grouping, in an order that depends on level and seed alone; null_mean, null_95: of these;
      groups_95: for each group, the 95 % point of the best channels of all groups of its size; exact: all groupings;
      p: see `chance`.
    """
    level = np.unique(level, return_inverse=True)[1]
    num_classes, groups = len(level), int(level.max()) + 1
    tops: dict[int, np.ndarray] = {}  # images -> strongest images by class; classes of unequal size make many

    def best_of(assigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best, which = np.zeros(groups), np.zeros(groups, np.int64)
        sizes = np.bincount(assigned[labels], minlength=groups)  # of this grouping: k is always the group's own size
        for g in np.flatnonzero(sizes):
            k = int(sizes[g])
            if k not in tops:
                tops[k] = top_class_counts(responses, labels, num_classes, k)
            share = tops[k][assigned == g].sum(0)
            which[g] = int(share.argmax())
            best[g] = share[which[g]] / k
        return best, which

    best, which = best_of(level)
    every = distinct_splits(level, exact_below)
    rng = np.random.default_rng([seed, 0x5E1])
    groupings = list((rng.permutation(level) for _ in range(permutations)) if every is None else every)
    by_group = np.array([best_of(grouping)[0] for grouping in groupings])
    null = np.array([shares.mean() for shares in by_group])
    sizes = np.array([np.bincount(grouping) for grouping in groupings])  # if exact, label g may have any of the sizes
    observed = float(best.mean())
    return {
        "best": observed,
        "groups": best.tolist(),
        "channels": which.tolist(),
        "null": null,
        "null_mean": float(null.mean()),
        "null_95": float(np.quantile(null, 0.95)),
        "groups_95": [float(np.quantile(by_group[sizes == size], 0.95)) for size in np.bincount(level)],
        "exact": every is not None,
        "p": chance(observed, null, every is not None),
    }


def chance(observed: float, null: np.ndarray, exact: bool) -> float:
    """Returns the p of a value under a null.

    Args:
      observed: the value.
      null: float [P], of the groupings.
      exact: whether these are all groupings, the level's own among them.
    Returns:
      #>= / P over all groupings, or (1 + #>=) / (1 + P) over random ones; NaN if one of the values is NaN.
    """
    if np.isnan(observed) or np.isnan(null).any():
        return float("nan")
    reached = int((null >= observed - 1e-12).sum())
    return max(1, reached) / len(null) if exact else (1 + reached) / (1 + len(null))


def best_layer(rows: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """Finds the layer that exceeds its own 95 % null point most, and the p of that excess.

    Each grouping may choose its best layer too, so p needs no correction for the number of layers looked at.

    Args:
      rows: what `best_with_null` returned for each layer, with one level and seed.
    Returns:
      (place of the layer, p).
    """
    exact = rows[0]["exact"]
    # where the level's own grouping is not among the others it has to shape the threshold as they do
    nulls = [row["null"] if exact else np.append(row["null"], row["best"]) for row in rows]
    thresholds = [np.quantile(null, 0.95) for null in nulls]
    excess = [row["best"] - threshold for row, threshold in zip(rows, thresholds, strict=True)]
    others = np.max([row["null"] - threshold for row, threshold in zip(rows, thresholds, strict=True)], axis=0)
    return int(np.argmax(excess)), chance(max(excess), others, exact)
