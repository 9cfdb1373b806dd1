"""The order of the leaves of a tree that puts similar classes side by side: exact, by dynamic programming.

Among all orders the tree allows (2^(K-1) flips) the one with the smallest sum of distances between neighbours is
found. SciPy's `optimal_leaf_ordering` misses that optimum on many trees (scipy issue 11227), hence this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from hierarchy_cnn_torch.method.trees import Node


def min_plus(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the (min, +) matrix product, looping over the smallest of the three dimensions.

    Args:
      a: float [p, q].
      b: float [q, r].
    Returns:
      float [p, r], out[i, j] = min over k of a[i, k] + b[k, j].
    """
    p, q, r = a.shape[0], a.shape[1], b.shape[1]
    out = np.empty((p, r), a.dtype)
    if r <= min(p, q):
        columns = np.ascontiguousarray(b.T)
        for j in range(r):
            out[:, j] = (a + columns[j]).min(1)
    elif p <= q:
        rows = np.ascontiguousarray(b.T)
        for i in range(p):
            out[i] = (rows + a[i]).min(1)
    else:
        np.add(a[:, :1], b[:1], out=out)
        sums = np.empty_like(out)
        for k in range(1, q):
            np.add(a[:, k : k + 1], b[k : k + 1], out=sums)
            np.minimum(out, sums, out=out)
    return out


def optimal_order(merges: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Returns the exact optimal leaf order of a binary tree.

    Args:
      merges: int [K - 1, 2] (further columns are ignored, so SciPy's linkage works): the clusters that each step joins,
        numbered as SciPy does.
      distance: float [K, K], symmetric.
    Returns:
      int64 [K], the leaves from left to right. Of an order and its mirror, the one with the larger subtree of the
      root first, then the one with the lower class id first.
    Raises:
      ValueError: shapes do not fit.
    """
    size = distance.shape[0]
    merges = np.asarray(merges)[:, :2].astype(np.int64) if size > 1 else np.zeros((0, 2), np.int64)
    if distance.shape != (size, size) or len(merges) != size - 1:
        raise ValueError(f"{len(merges)} merges do not fit distances of shape {distance.shape}")
    if size == 1:
        return np.zeros(1, np.int64)
    # Leaves are renumbered from left to right, so that every cluster is a slice: first, middle, end.
    inside: list[list[int]] = [[leaf] for leaf in range(size)]
    for left, right in merges.tolist():
        inside.append(inside[left] + inside[right])
    numbering = np.array(inside[-1])
    place = np.empty(size, np.int64)
    place[numbering] = np.arange(size)
    spans = [(int(at), int(at) + 1, int(at) + 1) for at in place]
    near = np.asarray(distance, np.float32 if size > 300 else np.float64)[np.ix_(numbering, numbering)]
    # best[u, w]: shortest path through the subtree of the lowest common ancestor of u and w, from end u to end w.
    best = np.zeros_like(near)

    def halves(node: int) -> list[slice]:
        first, middle, end = spans[node]
        return [slice(first, middle), slice(middle, end)] if node >= size else [slice(first, end)]

    for left, right in merges.tolist():
        a, b = spans[left][0], spans[right][0]
        ends_a, ends_b = halves(left), halves(right)
        for u in ends_a:
            m = ends_a[-1] if u is ends_a[0] else ends_a[0]  # the other end lies in the other half
            through = min_plus(best[u, m], near[m, b : spans[right][2]])
            for w in ends_b:
                k = ends_b[-1] if w is ends_b[0] else ends_b[0]
                value = min_plus(through[:, k.start - b : k.stop - b], best[k, w])
                best[u, w] = value
                best[w, u] = value.T
        spans.append((a, spans[left][2], spans[right][2]))

    first, middle, end = spans[-1]
    corner = best[first:middle, middle:end]
    flat = int(np.argmin(corner))
    order: list[int] = []
    stack = [(len(spans) - 1, flat // corner.shape[1], middle + flat % corner.shape[1])]
    while stack:
        node, u, w = stack.pop()
        if node < size:
            order.append(node)
            continue
        left, right = merges[node - size].tolist()
        if u >= spans[node][1]:  # this node is walked from right to left
            left, right = right, left
        ms, ks = _other_half(halves(left), u), _other_half(halves(right), w)
        sums = best[u, ms][:, None] + near[ms, ks] + best[ks, w][None, :]
        index = int(np.argmin(sums))
        m_at, k_at = ms.start + index // sums.shape[1], ks.start + index % sums.shape[1]
        stack.append((right, k_at, w))
        stack.append((left, u, m_at))
    return _without_mirror(np.array(order, np.int64), numbering[first:middle], numbering[middle:end])


def _other_half(halves: list[slice], end: int) -> slice:
    """Where the other end of a cluster can lie when `end` is one; a single leaf is both."""
    return halves[-1] if end < halves[0].stop else halves[0]


def _without_mirror(order: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fixes left and right, which have the same length: larger subtree first, then the lower class id."""
    if len(a) != len(b):
        first = a if len(a) > len(b) else b
        return order if order[0] in first else order[::-1].copy()
    return order if order[0] < order[-1] else order[::-1].copy()


def path_length(order: np.ndarray, distance: np.ndarray) -> float:
    """Returns the sum of the distances between neighbours in an order.

    Args:
      order: int [K].
      distance: float [K, K].
    """
    return float(distance[order[:-1], order[1:]].sum())


def _average_linkage_of(clusters: Sequence[np.ndarray], distance: np.ndarray) -> list[tuple[int, int]]:
    """Average linkage that starts from given clusters; indices count clusters, then merges."""
    inside = np.concatenate(clusters)
    label = np.repeat(np.arange(len(clusters)), [len(cluster) for cluster in clusters])
    # leaves of a cluster have distance 0, so they merge first; a constant between clusters changes no other merge
    apart = np.where(label[:, None] == label, 0, 1 + distance[np.ix_(inside, inside)])
    number, pairs = label.tolist(), []
    for step, (a, b) in enumerate(linkage(squareform(apart, checks=False), "average")[:, :2].astype(int).tolist()):
        if step >= len(inside) - len(clusters):
            pairs.append((number[a], number[b]))
        number.append(number[a] if number[a] == number[b] else len(clusters) + len(pairs) - 1)
    return pairs


def binary_merges(tree: Node, distance: np.ndarray) -> np.ndarray:
    """Returns a tree's own merges as a binary tree; nodes with more than two children are joined by average linkage.

    Args:
      tree: a complete tree over K classes.
      distance: float [K, K], used inside nodes with many children.
    Returns:
      int64 [K - 1, 2], numbered as SciPy does.
    """
    size = len(tree.classes)
    merges: list[tuple[int, int]] = []
    done: dict[int, int] = {}
    for _, node in reversed(list(tree.walk())):  # children come before their parents
        if not node.children:
            done[id(node)] = node.classes[0]
            continue
        numbers = [done[id(child)] for child in node.children]
        if len(numbers) > 1:
            clusters = [np.array(child.classes) for child in node.children]
            for x, y in _average_linkage_of(clusters, distance):
                merges.append((numbers[x], numbers[y]))
                numbers.append(size + len(merges) - 1)
        done[id(node)] = numbers[-1]
    return np.array(merges, np.int64).reshape(-1, 2)


def tree_order(tree: Node, distance: np.ndarray) -> np.ndarray:
    """Returns the order of the classes that every view shares: the tree's groups stay together, neighbours are close.

    Args:
      tree: a complete tree over K classes.
      distance: float [K, K], symmetric, zero diagonal.
    Returns:
      int64 [K], class ids from top to bottom.
    """
    return optimal_order(binary_merges(tree, distance), distance)
