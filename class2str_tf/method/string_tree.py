"""The tree of the class strings, and whether it follows the visual similarity of the classes. NumPy, SciPy for ranks.

A string is a path from the root of a binary tree: bit 1 decides at the root. Two classes are as near as their longest
common prefix (LCP) is long. The questions asked of the tree are ours, not the paper's: do classes of one superclass
share longer prefixes than others, and do classes that are confused, or whose features are alike?
Each answer comes with a permutation null: the same figure after the strings are dealt to the classes at random.
Source: the ICPR poster's table of prefixes; the statistics are ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from class2str_tf.method.codes import strings

PERMUTATIONS = 1000
# CIFAR-10 has no superclasses in its files; ours, animals 0 and vehicles 1, in the order of its classes (airplane, ...)
CIFAR10_SUPERCLASSES = (1, 1, 0, 0, 0, 0, 0, 0, 1, 1)


def lcp_matrix(codes: np.ndarray) -> np.ndarray:
    """Length of the longest common prefix of each pair of classes.

    Args:
      codes: uint8 [C, L].
    Returns:
      int64 [C, C], symmetric, 0..L; L on the diagonal and for classes that share a string.
    """
    codes = np.asarray(codes)
    same = codes[:, None] == codes  # [C, C, L]
    return np.logical_and.accumulate(same, axis=2).sum(axis=2)


def trie(codes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The tree of the strings as JSON values.

    Args:
      codes: uint8 [C, L].
      names: C class names.
    Returns:
      Root node. A node holds `prefix` (its path), `size` (classes below) and `children` (by "0" and "1", only those
      that some class uses); a node of depth L holds `classes` (names, by class id) instead of `children`.
    """
    texts = strings(codes)
    depth = np.asarray(codes).shape[1]

    def node(prefix: str, classes: list[int]) -> dict[str, Any]:
        if len(prefix) == depth:
            return {"prefix": prefix, "size": len(classes), "classes": [names[k] for k in classes]}
        split = {bit: [k for k in classes if texts[k][len(prefix)] == bit] for bit in "01"}
        children = {bit: node(prefix + bit, below) for bit, below in split.items() if below}
        return {"prefix": prefix, "size": len(classes), "children": children}

    return node("", list(range(len(texts))))


def compact(node: dict[str, Any]) -> dict[str, Any]:
    """The tree of `trie` without the nodes that have a single child: only where classes part, and the leaves."""
    while len(node.get("children", ())) == 1:
        (node,) = node["children"].values()
    if "classes" in node:
        return node
    return {**node, "children": {bit: compact(child) for bit, child in node["children"].items()}}


def trie_text(tree: dict[str, Any]) -> str:
    """Indented text of the tree of `trie`: a line for each branching and string, an underscore per bit still open."""
    leaf = tree
    while "children" in leaf:
        leaf = next(iter(leaf["children"].values()))
    depth = len(leaf["prefix"])

    def lines_of(node: dict[str, Any], level: int) -> Iterator[str]:
        tail = ", ".join(node["classes"]) if "classes" in node else f"({node['size']} classes)"
        yield f"{'  ' * level}{node['prefix'].ljust(depth, '_')}  {tail}\n"
        for child in node.get("children", {}).values():
            yield from lines_of(child, level + 1)

    return "".join(lines_of(compact(tree), 0))


def trie_dot(tree: dict[str, Any]) -> str:
    """Graphviz source of the tree of `trie`, left to right; edges carry the bits, leaves the class names."""

    def lines_of(node: dict[str, Any]) -> Iterator[str]:
        node_id = f"n{node['prefix']}"
        if "classes" in node:
            label = "\\n".join(_quoted(name) for name in (node["prefix"], *node["classes"]))
            yield f'  {node_id} [shape=box, label="{label}"];'
        for child in node.get("children", {}).values():
            yield from lines_of(child)
            bits = child["prefix"][len(node["prefix"]) :]
            yield f'  {node_id} -> n{child["prefix"]} [label="{bits}"];'

    style = '  node [shape=point]; edge [arrowhead=none, fontname="monospace"];'
    return "\n".join(["digraph strings {", "  rankdir=LR;", style, *lines_of(compact(tree)), "}"]) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def prefix_groups(
    codes: np.ndarray,
    names: Sequence[str],
    coarse: Sequence[int] | np.ndarray | None = None,
    max_size: int = 5,
) -> list[dict[str, Any]]:
    """Groups of classes by their longest common prefix, as the poster's table.

    The poster does not say how it chose its groups. Here they are the largest subtrees of at most `max_size` classes:
    with 5 this gives the poster's five groups from their strings.

    Args:
      codes: uint8 [C, L].
      names: C class names.
      coarse: superclass of each class; adds the purity.
      max_size: largest group; classes that share a string stay together whatever their number.
    Returns:
      Groups of two or more classes, longest prefix first, then by prefix: `prefix`, `length`, `classes` (names by
      string), `strings`, `ids` and, with superclasses, `purity` in (0, 1], the share of the most frequent one.
    """
    texts = strings(codes)

    def subtrees(classes: list[int], depth: int) -> list[list[int]]:
        if len(classes) <= max_size or depth == len(texts[0]):
            return [classes]
        halves = ([k for k in classes if texts[k][depth] == bit] for bit in "01")
        return [subtree for half in halves for subtree in subtrees(half, depth + 1)]

    groups = []
    for ids in subtrees(sorted(range(len(texts)), key=lambda k: (texts[k], k)), 0):
        if len(ids) < 2:
            continue
        prefix = os.path.commonprefix([texts[k] for k in ids])
        group: dict[str, Any] = {
            "prefix": prefix,
            "length": len(prefix),
            "classes": [names[k] for k in ids],
            "strings": [texts[k] for k in ids],
            "ids": ids,
        }
        if coarse is not None:
            members = [int(coarse[k]) for k in ids]
            group["purity"] = max(members.count(s) for s in members) / len(members)
        groups.append(group)
    return sorted(groups, key=lambda group: (-group["length"], group["prefix"]))


def superclass_scores(
    codes: np.ndarray, coarse: Sequence[int] | np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Any]:
    """Does the tree follow known superclasses? Purity and NMI at each depth, LCP inside against across superclasses.

    Args:
      codes: uint8 [C, L].
      coarse: integers [C], superclass of each class.
      permutations: random reassignments of the strings to the classes.
      seed: of the reassignments.
    Returns:
      depths: one dict for each depth 1..L with `groups` (distinct prefixes), `purity` = (1/C) sum over groups of the
        largest superclass in it, and `nmi` (mutual information over the arithmetic mean of the entropies).
      lcp: `within` and `across` (mean LCP over pairs of classes), their difference under `value`.
      Each of purity, nmi and lcp is a dict value | z | p: z in standard deviations of the null (None where the null
      does not vary), p the share of reassignments, the observed one included, that reach the value or more.
      `lcp` is None where no pair of classes shares a superclass, or all do.
    Raises:
      ValueError: coarse does not fit the strings.
    Source: ours, not the paper's metric.
    """
    codes = np.asarray(codes)
    coarse = np.unique(np.asarray(coarse), return_inverse=True)[1]
    if coarse.shape != codes.shape[:1] or not len(codes):
        raise ValueError(f"superclasses {coarse.shape} do not fit strings {codes.shape}")
    groups, group_depth = _prefix_ids(codes)
    length = lcp_matrix(codes).astype(np.float64)
    scores, within, across = _superclass_scores(groups, group_depth, length, coarse)
    dealt = (coarse[order] for order in _orders(len(coarse), permutations, seed))
    null = np.array([_superclass_scores(groups, group_depth, length, classes)[0] for classes in dealt])
    num_bits = codes.shape[1]
    judged = [_judged(value, column) for value, column in zip(scores, null.T, strict=True)]
    depths = [
        {
            "depth": d + 1,
            "groups": int((group_depth == d).sum()),
            "purity": judged[d],
            "nmi": judged[num_bits + d],
        }
        for d in range(num_bits)
    ]
    has_pairs = np.isfinite(scores[-1])
    return {
        "depths": depths,
        "lcp": {**judged[-1], "within": within, "across": across} if has_pairs else None,
        "permutations": permutations,
    }


def _prefix_ids(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers all prefixes of all depths. [C, L] -> (prefix of each class at each depth [C, L], depth of each [G])."""
    ids, depths, start = np.empty(codes.shape, np.int64), [], 0
    for d in range(codes.shape[1]):
        inverse = np.unique(codes[:, : d + 1], axis=0, return_inverse=True)[1].reshape(-1)
        ids[:, d] = start + inverse
        count = int(inverse.max()) + 1
        depths += [d] * count
        start += count
    return ids, np.array(depths)


def _superclass_scores(
    groups: np.ndarray, group_depth: np.ndarray, length: np.ndarray, coarse: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Purity of each depth, NMI of each depth, LCP difference [2L + 1]; mean LCP within and across."""
    num_classes, num_bits = groups.shape
    num_coarse = int(coarse.max()) + 1
    cells = (groups * num_coarse + coarse[:, None]).ravel()
    table = np.bincount(cells, minlength=len(group_depth) * num_coarse).reshape(-1, num_coarse)  # [G, S]
    purity = np.bincount(group_depth, table.max(axis=1), num_bits) / num_classes
    # entropies from n log n: H = log C - (1/C) sum n log n
    of_cells = np.bincount(group_depth, _n_log_n(table).sum(axis=1), num_bits) / num_classes
    of_groups = np.bincount(group_depth, _n_log_n(table.sum(axis=1)), num_bits) / num_classes
    of_coarse = _n_log_n(np.bincount(coarse)).sum() / num_classes
    log_c = np.log(num_classes)
    mean_entropy = log_c - (of_groups + of_coarse) / 2
    information = log_c - of_groups - of_coarse + of_cells
    flat = mean_entropy < 1e-12  # one group and one superclass: they agree
    nmi = np.where(flat, 1.0, np.clip(information / np.where(flat, 1.0, mean_entropy), 0.0, 1.0))

    member = np.eye(num_coarse)[coarse]  # [C, S]
    same_pairs = (member.sum(axis=0) * (member.sum(axis=0) - 1)).sum()
    all_pairs = num_classes * (num_classes - 1)
    within_sum = float((member * (length @ member)).sum() - np.trace(length))
    across_sum = float(length.sum() - np.trace(length)) - within_sum
    if 0 < same_pairs < all_pairs:
        within, across = within_sum / float(same_pairs), across_sum / float(all_pairs - same_pairs)
    else:
        within = across = float("nan")
    return np.concatenate([purity, nmi, [within - across]]), within, across


def _n_log_n(counts: np.ndarray) -> np.ndarray:
    counts = counts.astype(np.float64)
    return counts * np.log(np.maximum(counts, 1.0))


def _orders(num_classes: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    for number in range(permutations):
        yield np.random.default_rng([seed, number]).permutation(num_classes)


def _judged(value: float, null: np.ndarray) -> dict[str, float | None]:
    """Value with z and one-sided p under its null; equal values count as reached, up to rounding."""
    if not np.isfinite(value):
        return {"value": None, "z": None, "p": None}
    spread = float(null.std(ddof=1)) if len(null) > 1 else 0.0
    z = (float(value) - float(null.mean())) / spread if spread > 1e-12 else None
    p = (1 + int((null >= value - 1e-12).sum())) / (1 + len(null))
    return {"value": float(value), "z": z, "p": p}


def spearman(
    codes: np.ndarray, similarity: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float | None]:
    """Spearman's rho, over pairs of different classes, of the LCP with a similarity of classes.

    Args:
      codes: uint8 [C, L].
      similarity: float [C, C], symmetric; the diagonal is not looked at.
      permutations: random reassignments of the strings to the classes.
      seed: of the reassignments.
    Returns:
      rho (ties by mean rank), z and one-sided p of the null, as `superclass_scores`; all None where rho does not
      exist (fewer than three classes, or one of the two is constant).
    Raises:
      ValueError: shapes that do not fit, values that are not finite, a matrix that is not symmetric.
    Source: ours.
    """
    from scipy.stats import rankdata

    codes, similarity = np.asarray(codes), np.asarray(similarity, np.float64)
    num_classes = len(codes)
    if similarity.shape != (num_classes, num_classes):
        raise ValueError(f"similarity {similarity.shape} does not fit {num_classes} classes")
    rows, columns = np.triu_indices(num_classes, 1)
    if not np.isfinite(similarity[rows, columns]).all() or not np.allclose(similarity, similarity.T, equal_nan=True):
        raise ValueError("similarity is not symmetric or not finite")
    nothing: dict[str, float | None] = {"rho": None, "z": None, "p": None}
    if num_classes < 3:
        return nothing
    tables = []
    for values in (lcp_matrix(codes)[rows, columns], similarity[rows, columns]):
        ranks = _standard(rankdata(values))
        if ranks is None:
            return nothing
        table = np.zeros((num_classes, num_classes))
        table[rows, columns] = table[columns, rows] = ranks
        tables.append(table)
    left, right = tables
    null = [np.vdot(left[order].take(order, axis=1), right) / 2 for order in _orders(num_classes, permutations, seed)]
    judged = _judged(float(np.vdot(left, right)) / 2, np.array(null))
    return {"rho": judged["value"], "z": judged["z"], "p": judged["p"]}


def _standard(values: np.ndarray) -> np.ndarray | None:
    """Zero mean and unit length, or None where the values are all alike."""
    centred = values - values.mean()
    norm = np.linalg.norm(centred)
    return centred / norm if norm > 1e-9 else None


def symmetric_confusion(confusion: np.ndarray) -> np.ndarray:
    """Returns how often two classes are confused with each other.

    Args:
      confusion: counts [C, C], row = true class, column = predicted class.
    Returns:
      float64 [C, C], mean of P(predicted j | class i) and P(predicted i | class j); zero diagonal; a class without
      images contributes zeros.
    """
    counts = np.asarray(confusion, np.float64)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    np.fill_diagonal(rates, 0.0)
    return np.asarray((rates + rates.T) / 2)


def cosine_matrix(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows. float [C, F] -> float64 [C, C] in [-1, 1]; 0 with a row of zeros or NaN.

    The mean of a class without images is NaN; such a class is like no other.
    """
    vectors = np.asarray(vectors, np.float64)
    vectors = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0.0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    return np.asarray(np.clip(unit @ unit.T, -1.0, 1.0))
