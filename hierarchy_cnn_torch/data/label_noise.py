"""Wrong labels that are planted to be found again: flips inside and outside a group, and a class with two labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hierarchy_cnn_torch.data.tree_files import named_tree
from hierarchy_cnn_torch.flags import Config
from hierarchy_cnn_torch.method import trees
from reproduction.runtime.run_folder import UserError


def plant_noise(
    labels: np.ndarray, level: np.ndarray, share: float, seed: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flips some labels, half to another class of the same group (near), half to a class of another group (far).

    Args:
      labels: int [N].
      level: int [K] group labels; a class alone in its group only gets far flips.
      share: of the images, 0..1.
      seed: of the draws.
      allowed: bool [N], images that may be flipped.
    Returns:
      (int64 [N] noisy labels, int8 [N]: 0 untouched, 1 near, 2 far).
    """
    rng = np.random.default_rng([seed, 0xF11B])
    labels = np.asarray(labels, np.int64)
    noisy, kind = labels.copy(), np.zeros(len(labels), np.int8)
    candidates = rng.permutation(np.flatnonzero(np.ones(len(labels), bool) if allowed is None else allowed))
    wanted = round(share * len(candidates))
    classes = np.arange(len(level))
    planted = {1: 0, 2: 0}
    for image in candidates:
        which = 1 if planted[1] < wanted // 2 else 2
        label = labels[image]
        same = level == level[label]
        choices = classes[same & (classes != label)] if which == 1 else classes[~same]
        if not len(choices):
            continue
        noisy[image] = rng.choice(choices)
        kind[image] = which
        planted[which] += 1
        if planted[1] + planted[2] >= wanted:
            break
    return noisy, kind


def split_class(labels: np.ndarray, chosen: int, num_classes: int, seed: int) -> np.ndarray:
    """Gives half of a class's images, at random, the new label `num_classes`: two labels that mean the same."""
    rng = np.random.default_rng([seed, 0x5911])
    labels = np.asarray(labels, np.int64).copy()
    members = np.flatnonzero(labels == chosen)
    labels[rng.permutation(members)[: len(members) // 2]] = num_classes
    return labels


def noise_tree(config: Config, names: Sequence[str]) -> trees.Node:
    """Returns the tree whose groups say which flips are near; a split class gets its second label as a sibling.

    Args:
      config: resolved flags.
      names: class names, the second label of a split class last.
    Raises:
      UserError: a tree that is not there before the training.
    """
    base = names[:-1] if config.split_class >= 0 else names
    if config.tree in ("derived", "random"):
        raise UserError("--folds needs --tree official or a tree file: near and far labels are defined by its groups")
    tree = named_tree(config.tree, config.dataset, base)
    if len(base) == len(names):
        return tree
    levels = [np.append(level, level[config.split_class]) for level in trees.levels_of(tree)]
    return trees.tree_of(levels, names)


def plant(config: Config, labels: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Splits a class and flips labels as --split-class and --label-noise say.

    Args:
      config: resolved flags.
      labels: int64 [N].
      names: class names.
    Returns:
      (int64 [N] planted labels, int8 [N]: 0 untouched, 1 near flip, 2 far flip, class names with the second label).
    Raises:
      UserError: a class or a tree that the set does not have.
    """
    planted, kind, split = labels, np.zeros(len(labels), np.int8), config.split_class
    if split >= 0:
        if split >= len(names):
            raise UserError(f"--split-class: {split}, allowed are 0 to {len(names) - 1}")
        planted = split_class(labels, split, len(names), config.seed)
        names = [*names, f"{names[split]} (second label)"]
    if config.label_noise:
        levels = trees.levels_of(noise_tree(config, names))
        if not levels:
            raise UserError(f"--label-noise: the tree ({config.tree}) has no level between its root and the classes")
        planted, kind = plant_noise(planted, levels[-1], config.label_noise, config.seed, labels != split)
    return planted, kind, names
