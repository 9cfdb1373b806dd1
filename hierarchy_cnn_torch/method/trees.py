"""Class trees: nested groups of classes as JSON trees and as levels of group labels.

A tree is read in two forms. As nodes (`Node`) it is what people edit: {id, name, children, classes}. As levels it is
what the computations take: one int64 array [num_classes] of group labels per depth, coarsest first, without the root
(one group) and without the classes themselves. A leaf that stands higher than others is its own group below its depth.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_DEPTH = 200  # of a tree from outside


@dataclass(frozen=True)
class Node:
    """One group of classes, or one class if there are no children."""

    name: str
    classes: tuple[int, ...]
    children: tuple[Node, ...] = field(default=())

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yields all nodes with their depth, parents first."""
        stack = [(0, self)]
        while stack:
            at, node = stack.pop()
            yield at, node
            stack.extend((at + 1, child) for child in reversed(node.children))


def leaf(index: int, name: str) -> Node:
    """Returns the node of one class."""
    return Node(name, (index,))


def group(name: str, children: Sequence[Node]) -> Node:
    """Returns a node over others; its classes are theirs."""
    return Node(name, tuple(sorted(c for child in children for c in child.classes)), tuple(children))


def check_levels(levels: Sequence[np.ndarray], num_classes: int | None = None) -> list[np.ndarray]:
    """Checks that every group lies inside one group of the level above.

    Args:
      levels: group label of each class for each level, coarsest first; int [num_classes] each.
      num_classes: expected length, or None.
    Returns:
      The levels with labels renumbered from 0 in the order of their lowest class; int64.
    Raises:
      ValueError: lengths differ, or two levels do not nest; names the level, the group and two classes.
    """
    out: list[np.ndarray] = []
    for depth, level in enumerate(levels):
        level = np.asarray(level)
        if level.ndim != 1 or (num_classes is not None and len(level) != num_classes):
            raise ValueError(f"tree level {depth + 1} has {level.shape} labels, {num_classes} classes are expected")
        if out and len(level) != len(out[0]):
            raise ValueError(f"tree level {depth + 1} has {len(level)} classes, level 1 has {len(out[0])}")
        _, first, inverse = np.unique(level, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        level = rank[inverse]
        if out:
            above = out[-1]
            for label in range(int(level.max()) + 1):
                members = np.flatnonzero(level == label)
                apart = members[above[members] != above[members[0]]]
                if len(apart):
                    raise ValueError(
                        f"tree does not nest: classes {members[0]} and {apart[0]} share a group at level {depth + 1} "
                        f"but not at level {depth}"
                    )
        out.append(level)
    return out


def levels_of(tree: Node) -> list[np.ndarray]:
    """Returns the levels of a tree by depth, coarsest first, without root and classes.

    Args:
      tree: a complete tree (see `check_tree`).
    Returns:
      int64 [num_classes] for each depth; a depth that repeats the one above, or has only single classes, is left out.
    """
    num_classes = len(tree.classes)
    deepest = max(depth for depth, _ in tree.walk())
    levels: list[np.ndarray] = []
    for depth in range(1, deepest):
        level = np.full(num_classes, -1, np.int64)
        label = 0
        for at, node in tree.walk():
            if at == depth or (at < depth and not node.children):
                level[list(node.classes)] = label
                label += 1
        if 1 < label < num_classes and not (levels and int(levels[-1].max()) + 1 == label):
            levels.append(level)
    return check_levels(levels, num_classes)


def tree_of(levels: Sequence[np.ndarray], names: Sequence[str]) -> Node:
    """Returns the tree of some levels; a group is named after its first classes.

    Args:
      levels: as `levels_of` returns, coarsest first.
      names: class names.
    """
    levels = check_levels(levels, len(names))

    def below(classes: np.ndarray, depth: int, name: str) -> Node:
        if depth == len(levels):
            return group(name, [leaf(int(c), names[c]) for c in classes])
        children = []
        for label in dict.fromkeys(levels[depth][classes].tolist()):
            inside = classes[levels[depth][classes] == label]
            children.append(below(inside, depth + 1, auto_name([names[c] for c in inside])))
        return group(name, children)

    return below(np.arange(len(names)), 0, "all")


def auto_name(names: Sequence[str]) -> str:
    """Returns a group's name if nobody chose one: its first three class names."""
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def check_tree(tree: Node, names: Sequence[str]) -> Node:
    """Checks that the tree holds every class once, and returns it.

    Args:
      tree: of any shape.
      names: class names.
    Raises:
      ValueError: a class is missing, stands twice, or is out of range; names it.
    """
    seen: list[int] = [node.classes[0] for _, node in tree.walk() if not node.children and len(node.classes) == 1]
    for _, node in tree.walk():
        if not node.children and len(node.classes) != 1:
            raise ValueError(f"tree: group {node.name!r} has no children and {len(node.classes)} classes")
        inside = sorted(c for child in node.children for c in child.classes)
        if node.children and sorted(node.classes) != inside:
            raise ValueError(f"tree does not nest: group {node.name!r} lists classes its children do not hold")
    for index in seen:
        if not 0 <= index < len(names):
            raise ValueError(f"tree: class {index} is not one of the {len(names)} classes")
        if seen.count(index) > 1:
            raise ValueError(f"tree does not nest: class {index} ({names[index]}) stands in two groups")
    missing = sorted(set(range(len(names))) - set(seen))
    if missing:
        raise ValueError(f"tree misses class {missing[0]} ({names[missing[0]]}), {len(missing)} classes in all")
    return tree


def to_json(tree: Node) -> dict[str, Any]:
    """Returns a nested dictionary {id, name, children, classes}; ids count nodes from the root."""
    ids = {id(node): number for number, (_, node) in enumerate(tree.walk())}

    def one(node: Node) -> dict[str, Any]:
        children = [one(child) for child in node.children]
        return {"id": ids[id(node)], "name": node.name, "classes": list(node.classes), "children": children}

    return one(tree)


def from_json(data: Any, names: Sequence[str]) -> Node:
    """Reads a tree, checked; groups may leave `classes` out, leaves may give only a class name.

    Args:
      data: what `to_json` wrote, possibly edited by hand.
      names: class names; a leaf without `classes` is looked up among them.
    Raises:
      ValueError: malformed, or see `check_tree`.
    """

    def one(item: Any, depth: int) -> Node:
        if not isinstance(item, dict) or depth > MOST_DEPTH:
            raise ValueError("tree: every node must be an object with name and children or classes")
        title, listed = str(item.get("name", "")), item.get("classes")
        children = item.get("children") or []
        if not isinstance(children, list) or not (listed is None or isinstance(listed, list)):
            raise ValueError(f"tree: children and classes of {title!r} must be lists")
        if listed is not None and not all(isinstance(c, int) and not isinstance(c, bool) for c in listed):
            raise ValueError(f"tree: classes of {title!r} must be whole numbers")
        if children:
            node = group(title, [one(child, depth + 1) for child in children])
            return node if listed is None else Node(title, tuple(sorted(listed)), node.children)
        if listed is None:
            if title not in names:
                raise ValueError(f"tree: {title!r} is no class name and has no children")
            listed = [list(names).index(title)]
        if len(listed) == 1:
            return leaf(listed[0], title or names[listed[0]] if 0 <= listed[0] < len(names) else title)
        return group(title, [leaf(c, names[c] if 0 <= c < len(names) else str(c)) for c in listed])

    return check_tree(one(data, 0), names)


def random_levels(levels: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Returns the same groups with the classes permuted (A2); they nest, as one permutation serves all levels.

    Args:
      levels: coarsest first.
      seed: of the permutation.
    """
    num_classes = len(levels[0])
    shuffle = np.random.default_rng([seed, 0xA2]).permutation(num_classes)
    return [np.asarray(level)[shuffle] for level in levels]


def lca_height(levels: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """Returns the height of the lowest common ancestor of each pair of classes.

    Args:
      levels: coarsest first.
      num_classes: K.
    Returns:
      int64 [num_classes, num_classes]: 0 for a class with itself, 1 inside the finest group, ..., len(levels) + 1
      if only the root is shared.
    """
    height = np.full((num_classes, num_classes), len(levels) + 1, np.int64)
    for depth, level in enumerate(levels):
        level = np.asarray(level)
        height[level[:, None] == level[None, :]] = len(levels) - depth
    np.fill_diagonal(height, 0)
    return height


def choose_levels(tree: Node, sizes: Sequence[int]) -> list[np.ndarray]:
    """Returns the levels of a tree that have the asked numbers of groups, or all of them if no sizes are asked.

    Args:
      tree: a complete tree.
      sizes: --levels.
    Raises:
      ValueError: a size is not among the tree's; says which are.
    """
    levels = levels_of(tree)
    by_size = {int(level.max()) + 1: level for level in levels}
    missing = [size for size in sizes if size not in by_size]
    if missing:
        raise ValueError(f"--levels: the tree has levels of {sorted(by_size)} groups, not {missing[0]}")
    return [by_size[size] for size in sorted(sizes)] if sizes else levels


def from_wordnet(parents: Any, names: Sequence[str]) -> Node:
    """Makes a tree from an is-a graph: the shortest path to a root for each class, chains of single children collapsed.

    Args:
      parents: node -> its hypernyms (WordNet's is-a graph; a node may have several, a root has none).
      names: class names, each a node.
    Raises:
      ValueError: not such a graph, a name is not in it, or a class reaches no root.
    """
    lists = parents.values() if isinstance(parents, dict) else [None]
    if not all(isinstance(above, list) and all(isinstance(name, str) for name in above) for above in lists):
        raise ValueError("is-a graph: parents must be an object of lists of names")
    below: dict[str, set[str]] = {}
    roots: set[str] = set()
    for name in names:
        if name not in parents:
            raise ValueError(f"WordNet: no entry for {name}")
        paths, seen = [[name]], {name}
        while paths and parents.get(paths[0][-1]):  # breadth first: the first path to reach a root is a shortest one
            path = paths.pop(0)
            above = sorted(set(parents[path[-1]]) - seen)
            seen |= set(above)
            paths += [[*path, parent] for parent in above]
        for path in paths[:1]:
            if len(path) > MOST_DEPTH:
                raise ValueError(f"is-a graph: {name} is more than {MOST_DEPTH} steps from a root")
            roots.add(path[-1])
            for child, parent in itertools.pairwise(path):
                below.setdefault(parent, set()).add(child)
    left = {name: index for index, name in enumerate(names)}

    def one(node: str) -> Node | None:
        children = [child for name in sorted(below.get(node, ())) if (child := one(name)) is not None]
        if (index := left.pop(node, None)) is not None:
            children.append(leaf(index, node))
        return group(node, children) if len(children) > 1 else next(iter(children), None)

    tops = [node for root in sorted(roots) if (node := one(root)) is not None]
    return check_tree(tops[0] if len(tops) == 1 else group("all", tops), names)
