"""Class trees as files: those that come with a data set, those that a run writes, and those that a user edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hierarchy_cnn_torch.method import trees
from reproduction.runtime.run_folder import UserError, read_json, write_json

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def save_tree(path: Path, tree: trees.Node) -> None:
    """Writes a tree as JSON for people to edit."""
    write_json(path, trees.to_json(tree))


def load_tree(path: Path | str, names: Sequence[str]) -> trees.Node:
    """Reads and checks a tree file, or makes a tree from a file with an is-a graph such as WordNet's.

    Args:
      path: JSON: a tree as `save_tree` writes it, or {"parents": {node: [parents]}} with the classes among the nodes.
      names: class names.
    Raises:
      UserError: one line that begins with the file's name.
    """
    content = read_json(Path(path))
    try:
        if isinstance(content, dict) and "parents" in content:
            return trees.from_wordnet(content["parents"], names)
        return trees.from_json(content, names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def leaf_names(path: Path) -> dict[int, str]:
    """Returns class id -> name as a tree file that we wrote spells it; nothing is checked."""
    nodes = [read_json(path)]
    for node in nodes:  # grows on the way
        nodes += node["children"]
    return {node["classes"][0]: node["name"] for node in nodes if not node["children"]}


def official_tree(dataset: str, names: Sequence[str]) -> trees.Node:
    """Returns the tree that comes with a data set (CIFAR-10, CIFAR-100; for Fashion-MNIST the expected one, ours).

    Raises:
      UserError: the set has none; the message offers the derived one.
    """
    path = CONFIGS / f"tree_{dataset}.json"
    if not path.exists():
        raise UserError(f"--tree official: {dataset} has no official tree; use --tree derived, or a tree file")
    return load_tree(path, names)


def named_tree(tree: str, dataset: str, names: Sequence[str]) -> trees.Node:
    """Returns the official tree, or one from a file.

    Args:
      tree: "official" or the path of a tree file.
      dataset: name of the data set.
      names: class names.
    Raises:
      UserError: see `official_tree` and `load_tree`.
    """
    return official_tree(dataset, names) if tree == "official" else load_tree(tree, names)
