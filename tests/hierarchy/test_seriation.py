"""Exact seriation against brute force; the fact that SciPy's ordering is not exact."""

import itertools

import numpy as np
import pytest
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from hierarchy_cnn_torch.method import seriation, trees


def random_distance(size, rng):
    x = rng.random((size, size))
    x = x + x.T
    np.fill_diagonal(x, 0)
    return x


def all_orders(merges, size):
    """Every order a binary tree allows, by flipping every merge."""
    orders = [[[i]] for i in range(size)]
    for left, right in merges:
        both = []
        for a, b in itertools.product(orders[left], orders[right]):
            both += [a + b, b + a]
        orders.append(both)
    return orders[-1]


def shape_of(kind, distance, rng):
    size = len(distance)
    if kind == "average":
        return linkage(squareform(distance), "average")[:, :2].astype(int)
    alive, merges = list(range(size)), []
    for step in range(size - 1):
        i, j = (0, 1) if kind == "chain" else rng.choice(len(alive), 2, replace=False)
        pair = (alive[i], alive[j])
        alive = [node for node in alive if node not in pair]
        alive.insert(0, size + step)
        merges.append(pair)
    return np.array(merges)


@pytest.mark.parametrize("kind", ["average", "chain", "random"])
def test_exact_against_brute_force_on_180_trees(kind):
    rng = np.random.default_rng(7)
    for case in range(60):
        size = 2 + case % 8
        distance = random_distance(size, rng)
        merges = shape_of(kind, distance, rng)
        order = seriation.optimal_order(merges, distance)
        candidates = all_orders(merges, size)
        assert order.tolist() in candidates
        best = min(seriation.path_length(np.array(o), distance) for o in candidates)
        assert seriation.path_length(order, distance) == pytest.approx(best, abs=1e-12)


def test_scipy_misses_the_optimum_on_many_trees():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(120):
        distance = random_distance(9, rng)
        merged = linkage(squareform(distance), "average")
        theirs = leaves_list(optimal_leaf_ordering(merged, squareform(distance)))
        ours = seriation.optimal_order(merged, distance)
        gap = seriation.path_length(theirs, distance) - seriation.path_length(ours, distance)
        assert gap > -1e-9
        missed += gap > 1e-9
    assert missed > 10


def test_float32_path_for_many_leaves_and_deep_chains():
    rng = np.random.default_rng(1)
    size = 320
    points = rng.random((size, 2))
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    for merges in (linkage(squareform(distance, checks=False), "average"), shape_of("chain", distance, rng)):
        order = seriation.optimal_order(merges, distance)
        assert sorted(order.tolist()) == list(range(size))
    # a chain tree allows 2^(K-1) orders, among them every one that grows outwards from the first pair
    assert seriation.path_length(order, distance) <= seriation.path_length(np.arange(size), distance)


def test_min_plus_is_the_definition_for_every_loop_order():
    rng = np.random.default_rng(2)
    for shape in ((2, 7, 9), (9, 7, 2), (7, 2, 9), (1, 1, 1), (4, 4, 4)):
        a, b = rng.random(shape[:2]), rng.random(shape[1:])
        assert np.allclose(seriation.min_plus(a, b), (a[:, :, None] + b[None]).min(1))


def test_mirror_is_fixed():
    rng = np.random.default_rng(3)
    distance = random_distance(8, rng)
    merges = shape_of("average", distance, rng)
    order = seriation.optimal_order(merges, distance)
    flipped = seriation.optimal_order(merges[:, ::-1], distance)
    assert (order == flipped).all()
    even = np.array([[0, 1], [2, 3], [4, 5]])
    assert seriation.optimal_order(even, random_distance(4, rng))[0] in (0, 1)


def test_tree_order_keeps_groups_together_and_uses_average_linkage_inside():
    rng = np.random.default_rng(4)
    distance = random_distance(12, rng)
    level = np.repeat(np.arange(3), 4)
    tree = trees.tree_of([level], [str(i) for i in range(12)])
    order = seriation.tree_order(tree, distance)
    assert len([1 for a, b in itertools.pairwise(level[order]) if a != b]) == 2
    flat = trees.group("all", [trees.leaf(i, str(i)) for i in range(12)])
    merges = seriation.binary_merges(flat, distance)
    assert (merges == linkage(squareform(distance), "average")[:, :2]).all()


def test_average_linkage_of_clusters_continues_the_linkage_of_classes():
    rng = np.random.default_rng(5)
    distance = random_distance(20, rng)
    merged = linkage(squareform(distance), "average")
    members = [[i] for i in range(20)]
    for left, right in merged[:, :2].astype(int):
        members.append(members[left] + members[right])
    half = 10  # after ten merges, ten clusters are left
    alive = set(range(30)) - set(merged[:half, :2].astype(int).ravel().tolist())
    clusters = [np.array(members[node]) for node in sorted(alive)]
    groups = [set(c.tolist()) for c in clusters]
    for left, right in seriation._average_linkage_of(clusters, distance):
        groups.append(groups[left] | groups[right])
    assert {frozenset(g) for g in groups[10:]} == {frozenset(members[n]) for n in range(30, 39)}
