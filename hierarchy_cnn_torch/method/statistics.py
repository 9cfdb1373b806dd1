"""Block-diagonality with its permutation null, accuracies of groups, terms of classes, curves, likeness of trees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from hierarchy_cnn_torch.method.similarity import correlation
from hierarchy_cnn_torch.method.trees import lca_height

PERMUTATIONS = 9999


def planted_confusion(
    levels: Sequence[np.ndarray], per_class: int, accuracy: float, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Returns a confusion matrix whose errors are known, int64 [K, K]: for tests, and to see what a statistic can find.

    Args:
      levels: group labels, coarsest first.
      per_class: images of each class.
      accuracy: probability of a correct prediction.
      shares: probability that an error lands at each LCA height, from height 1 (inside the finest group) to
        len(levels) + 1 (elsewhere under the root); sums to 1. Empty: errors fall on any wrong class alike.
      seed: of the draws.
    """
    num_classes = len(levels[0])
    height = lca_height(levels, num_classes)
    rates = np.zeros((num_classes, num_classes))
    if len(shares):
        for at, share in enumerate(shares, 1):
            ring = height == at
            rates += share * ring / np.maximum(ring.sum(1, keepdims=True), 1)
    else:
        rates = (height > 0).astype(float)
    rates *= (1 - accuracy) / rates.sum(1, keepdims=True)
    np.fill_diagonal(rates, accuracy)
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(per_class, row) for row in rates]).astype(np.int64)


def distinct_splits(level: np.ndarray, most: int) -> Iterator[np.ndarray] | None:
    """Lists all distinct ways to form groups of a level's sizes.

    Args:
      level: int [K] group labels.
      most: number of ways from which on the answer is None.
    Returns:
      Group labels int64 [K] of each way, or None.
    """
    sizes = sorted(np.bincount(level).tolist(), reverse=True)
    count = math.factorial(len(level))
    for size in sizes:
        count //= math.factorial(size)
    for size in set(sizes):
        count //= math.factorial(sizes.count(size))
    if count >= most:
        return None

    def fill(left: tuple[int, ...], sizes: tuple[int, ...], labels: np.ndarray, label: int) -> Iterator[np.ndarray]:
        if not left:
            yield labels.copy()
            return
        # The lowest class left goes first: every grouping comes up exactly once, whatever sizes are equal.
        for size in sorted(set(sizes)):
            other_sizes = list(sizes)
            other_sizes.remove(size)
            for others in itertools.combinations(left[1:], size - 1):
                chosen = (left[0], *others)
                labels[list(chosen)] = label
                yield from fill(tuple(c for c in left if c not in chosen), tuple(other_sizes), labels, label + 1)

    return fill(tuple(range(len(level))), tuple(sizes), np.zeros(len(level), np.int64), 0)


def within_share(errors: np.ndarray, level: np.ndarray) -> float:
    """Returns the share of the errors that stay inside the true group; NaN without errors.

    Args:
      errors: float [K, K], zero diagonal.
      level: int [K] group labels.
    """
    total = errors.sum()
    return float(errors[level[:, None] == level[None, :]].sum() / total) if total else math.nan


def block_diagonality(
    counts: np.ndarray, level: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float | int | bool]:
    """Tests whether errors stay inside the groups of one level more than for groups of equal sizes drawn at random.

    Args:
      counts: int [K, K] confusion counts, rows actual; the diagonal is ignored.
      level: int [K] group labels.
      permutations: class-label permutations; if fewer distinct groupings exist, all are taken instead.
      seed: of the permutations.
    Returns:
      groups; within: W, share of errors inside the true group; expected: W if an error falls on any wrong class
      alike; expected_matched: the same with the predicted classes' own shares; lift: within / expected; p: of W under
      the permutations, (1 + #>=) / (1 + N), or #>= / N over all groupings; null_95: W that 95 % of them do not exceed,
      divided by expected; exact: which of the two.
    Source: ours (the paper shows the matrix; its statistic, if any, could not be read).
    """
    errors = counts * (1.0 - np.eye(len(counts)))
    size = len(errors)
    level = np.unique(np.asarray(level), return_inverse=True)[1]
    rows, columns = errors.sum(1), errors.sum(0)
    total = rows.sum()
    if total == 0:
        nothing = dict.fromkeys(("within", "expected", "expected_matched", "lift", "p", "null_95"), math.nan)
        return {"groups": int(level.max()) + 1, **nothing, "exact": False}
    within = within_share(errors, level)
    group_size = np.bincount(level)[level]
    expected = float((rows * (group_size - 1) / (size - 1)).sum() / total)
    inside = np.bincount(level, weights=columns)[level] - columns
    elsewhere = columns.sum() - columns
    matched = float((rows * np.divide(inside, elsewhere, out=np.zeros(size), where=elsewhere > 0)).sum() / total)

    i, j = np.nonzero(errors)
    weights = errors[i, j]
    observed = weights[level[i] == level[j]].sum() - 1e-9 * total
    every = distinct_splits(level, permutations)
    null: list[float] = []  # errors inside the groups of each grouping
    if every is not None:
        null = [float(weights[labels[i] == labels[j]].sum()) for labels in every]
    else:
        rng = np.random.default_rng([seed, 0xB10C])
        block = max(1, 4_000_000 // max(len(i), size))
        while len(null) < permutations:
            now = min(block, permutations - len(null))
            labels = rng.permuted(np.broadcast_to(level, (now, size)), axis=1)
            null += ((labels[:, i] == labels[:, j]) @ weights).tolist()
    reached = sum(value >= observed for value in null)
    p = reached / len(null) if every is not None else (1 + reached) / (1 + len(null))
    return {
        "groups": int(level.max()) + 1,
        "within": within,
        "expected": expected,
        "expected_matched": matched,
        "lift": within / expected if expected else math.nan,
        "p": float(p),
        "null_95": float(np.quantile(null, 0.95)) / total / expected if expected else math.nan,
        "exact": every is not None,
    }


def nested_shares(counts: np.ndarray, levels: Sequence[np.ndarray]) -> list[float]:
    """Returns, of the errors inside a group of each level, the share that stays inside the next finer group too.

    Args:
      counts: int [K, K] confusion counts.
      levels: coarsest first.
    Returns:
      One number a level; the first counts among all errors.
    """
    errors = counts * (1.0 - np.eye(len(counts)))
    shares = []
    for level in levels:
        same = np.asarray(level)[:, None] == np.asarray(level)[None, :]
        total = errors.sum()
        errors = errors * same
        shares.append(float(errors.sum() / total) if total else math.nan)
    return shares


def mistake_severity(counts: np.ndarray, levels: Sequence[np.ndarray]) -> float:
    """Returns the mean LCA height of the errors, in [1, len(levels) + 1]; NaN without errors.

    Args:
      counts: int [K, K] confusion counts.
      levels: coarsest first.
    """
    errors = counts * (1.0 - np.eye(len(counts)))
    total = errors.sum()
    return float((errors * lca_height(levels, len(errors))).sum() / total) if total else math.nan


def group_counts(counts: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Returns the confusion matrix of the groups, int64 [G, G] ("aggregate" in the viewer).

    Args:
      counts: int [K, K] confusion counts.
      level: int [K] group labels.
    """
    member = np.eye(int(level.max()) + 1, dtype=np.int64)[level]
    return member.T @ np.asarray(counts, np.int64) @ member


def among_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Returns whether each image's label is among its k largest scores, bool [N].

    Args:
      scores: float [N, K].
      labels: int [N].
      k: how many scores count.
    """
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.asarray((top == labels[:, None]).any(1))


def chance_corrected(accuracy: float, largest_share: float) -> float:
    """Returns (a - q) / (1 - q): 0 for always naming the largest group, 1 for perfect; NaN if there is one group only.

    Args:
      accuracy: a, in [0, 1].
      largest_share: q, of the largest group, in [0, 1].
    """
    return (accuracy - largest_share) / (1 - largest_share) if largest_share < 1 else math.nan


def group_report(counts: np.ndarray, level: np.ndarray) -> dict[str, Any]:
    """Returns the accuracy of the groups that class predictions imply, with recall, precision and F1 of each group.

    Args:
      counts: int [K, K] confusion counts.
      level: int [K] group labels.
    Returns:
      accuracy; corrected (see `chance_corrected`); recall, precision, f1: float [G], NaN where undefined.
    """
    grouped = group_counts(counts, level)
    totals, predicted, right = grouped.sum(1), grouped.sum(0), np.diag(grouped)
    accuracy = float(right.sum() / max(grouped.sum(), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / totals, right / predicted
        f1 = 2 * right / (totals + predicted)
    share = float(totals.max() / max(totals.sum(), 1))
    corrected = chance_corrected(accuracy, share)
    return {"accuracy": accuracy, "corrected": corrected, "recall": recall, "precision": precision, "f1": f1}


def conditional_accuracy(counts: np.ndarray, levels: Sequence[np.ndarray]) -> list[float]:
    """Returns acc(level + 1) / acc(level) down the tree; the last number goes from the finest groups to the classes.

    Args:
      counts: int [K, K] confusion counts.
      levels: coarsest first.
    """
    accuracies = [float(np.trace(group_counts(counts, level)) / counts.sum()) for level in levels]
    accuracies.append(float(np.trace(counts) / counts.sum()))
    return [b / a if a else math.nan for a, b in itertools.pairwise(accuracies)]


def class_terms(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns terms of ours for each class, float [K], NaN where undefined.

    Args:
      counts: int [K, K] confusion counts, rows actual.
    Returns:
      popularity: predicted / actual count (above 1: over-predicted); in_mix: FP / predicted; out_mix: FN / actual;
      recall; precision.
    """
    actual, predicted, right = counts.sum(1), counts.sum(0), np.diag(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "popularity": predicted / actual,
            "in_mix": (predicted - right) / predicted,
            "out_mix": (actual - right) / actual,
            "recall": right / actual,
            "precision": right / predicted,
        }


def mixed_classes(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Marks the classes whose in- or out-mix lies above the 90th percentile of their group, bool [K].

    Args:
      values: float [K], a term of `class_terms`.
      level: int [K] group labels.
    """
    out = np.zeros(len(values), bool)
    for label in np.unique(level):
        members = np.flatnonzero(level == label)
        if len(members) > 1 and np.isfinite(values[members]).any():
            out[members] = values[members] > np.nanpercentile(values[members], 90)
    return out


def mantel(similarity: np.ndarray, levels: Sequence[np.ndarray], permutations: int = 999) -> dict[str, Any]:
    """Tests whether class similarity follows the tree: Spearman with LCA depth over pairs, p by permuting classes.

    A permutation deals the classes to groups of the same sizes at random. Two similarities of the same classes meet the
    same permutations, so the difference of their coefficients has the difference of their nulls as its null.

    Args:
      similarity: float [K, K], symmetric.
      levels: coarsest first.
      permutations: of the classes.
    Returns:
      rho: Spearman's coefficient over the K(K-1)/2 pairs; p: one-sided; null: float64 [permutations], the coefficient
      under each permutation. Over all K! permutations it is 0 on average. All are NaN if nothing varies.
    """
    size = len(similarity)
    upper = np.triu_indices(size, 1)
    depth = len(levels) + 1 - lca_height(levels, size)
    similar = rankdata(similarity[upper])
    ranks = np.zeros((size, size))
    ranks[upper] = rankdata(depth[upper])
    ranks += ranks.T
    similar -= similar.mean()
    centre = ranks[upper].mean()
    norm = math.sqrt(float(similar @ similar) * float(((ranks[upper] - centre) ** 2).sum()))
    if norm < 1e-9:
        return {"rho": math.nan, "p": math.nan, "null": np.full(permutations, math.nan)}
    observed = float(similar @ (ranks[upper] - centre)) / norm
    rng = np.random.default_rng([0, 0x3A17E1])
    null = np.zeros(permutations)
    for at in range(permutations):
        shuffle = rng.permutation(size)
        null[at] = float(similar @ (ranks[shuffle[upper[0]], shuffle[upper[1]]] - centre)) / norm
    reached = int((null >= observed - 1e-12).sum())
    return {"rho": observed, "p": (1 + reached) / (1 + permutations), "null": null}


def epoch_to_90(epochs: Sequence[int], values: Sequence[float]) -> float:
    """Returns the first epoch (interpolated) at which a curve has made 90 % of its way from first to last value.

    Args:
      epochs: ascending.
      values: one number an epoch.
    Returns:
      NaN if the curve does not rise.
    """
    start, end = values[0], values[-1]
    goal = start + 0.9 * (end - start)
    if not end > start:
        return math.nan
    for (e0, v0), (e1, v1) in itertools.pairwise(zip(epochs, values, strict=True)):
        if v1 >= goal:
            return float(e0) if v0 >= goal else e0 + (goal - v0) / (v1 - v0) * (e1 - e0)
    return float(epochs[-1])


def counted_epochs_to_90(epochs: Sequence[int], curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Returns `epoch_to_90` of many curves, float64.

    Args:
      epochs: ascending.
      curves: one number an epoch each; one that does not rise counts as one epoch more than the last; of NaN: NaN.
    """
    needed = np.array([epoch_to_90(epochs, curve) for curve in curves])
    never = np.isnan(needed) & ~np.isnan([curve[-1] for curve in curves])
    return np.where(never, epochs[-1] + 1, needed)


def epochs_to_lower_end(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the first epochs (1-based, interpolated) at which two curves reach the lower of their last values.

    Both reach it, and neither curve alone sets it: two equal networks need the same number of epochs on average.

    Args:
      first: one value an epoch.
      second: one value an epoch.
    Source: ours.
    """
    goal = min(first[-1], second[-1])

    def reached(curve: Sequence[float]) -> float:
        at = next(at for at, value in enumerate(curve) if value >= goal)
        return at + (goal - curve[at - 1]) / (curve[at] - curve[at - 1]) if at else 1.0

    return reached(first), reached(second)


def tree_agreement(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, float]:
    """Measures how alike two trees are.

    Args:
      first: levels of a tree, coarsest first, int [K] each.
      second: levels of another tree of the same classes.
    Returns:
      The rank correlation of the LCA heights, and for each cut of the first with the nearest cut of the second adjusted
      Rand index and Fowlkes-Mallows.
    """
    from sklearn.metrics import adjusted_rand_score, fowlkes_mallows_score

    upper = np.triu_indices(len(first[0]), 1)
    ranks = [rankdata(lca_height(levels, len(first[0]))[upper]) for levels in (first, second)]
    out = {"cophenetic_spearman": float(correlation(np.stack(ranks))[0, 1])}
    for level in first:
        groups = int(level.max()) + 1
        other = min(second, key=lambda x: abs(int(x.max()) + 1 - groups))
        out[f"ari_{groups}"] = float(adjusted_rand_score(level, other))
        out[f"fowlkes_mallows_{groups}"] = float(fowlkes_mallows_score(level, other))
    return out
