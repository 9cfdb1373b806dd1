"""The variants' targets, the weights of their losses over the epochs, and how heads are joined into a prediction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hierarchy_cnn_torch.method.trees import random_levels

DEFAULT_TAPS = ("conv2", "conv3", "conv4")
# B-CNN's loss weights (its "BT" strategy) change at the end of the epochs 8, 18 and 28 of 60, counted from 0: the first
# and the last epoch of new weights, as shares
BT_SWITCH = (9 / 60, 29 / 60)


@dataclass(frozen=True)
class Branches:
    """What the branches of a variant fit.

    Attributes:
      taps: where they sit, from the input on.
      labels: int64 [num_classes] per tap: the label a class has there.
    """

    taps: tuple[str, ...]
    labels: tuple[np.ndarray, ...]

    def outputs(self) -> dict[str, int]:
        """Returns tap -> number of outputs."""
        return {tap: int(labels.max()) + 1 for tap, labels in zip(self.taps, self.labels, strict=True)}


def branches_of(arm: str, levels: Sequence[np.ndarray], taps: Sequence[tuple[str, int]], seed: int) -> Branches:
    """Returns the branches of a variant.

    Args:
      arm: A0 to A5; A0 and A5 have none.
      levels: of the tree, coarsest first.
      taps: (layer, groups) of --taps; if empty, conv2, conv3, conv4 take the levels from the coarsest on.
      seed: of the random tree of A2.
    Raises:
      ValueError: a number of groups that no level of the tree has, or more levels than default taps.
    """
    if arm in ("A0", "A5"):
        return Branches((), ())
    if not levels:
        raise ValueError("the tree has no level between its root and the classes; choose another --tree or --levels")
    levels = random_levels(levels, seed) if arm == "A2" else list(levels)
    if taps:
        by_size = {int(level.max()) + 1: level for level in levels}
        for tap, groups in taps:
            if groups not in by_size:
                raise ValueError(f"--taps {tap}:{groups}: the tree has levels of {sorted(by_size)} groups")
        names, labels = [tap for tap, _ in taps], [by_size[groups] for _, groups in taps]
    else:
        if len(levels) > len(DEFAULT_TAPS):
            raise ValueError(f"--taps: name a layer for each of the tree's {len(levels)} levels, or choose --levels")
        names, labels = list(DEFAULT_TAPS[: len(levels)]), list(levels)
    if arm == "A3":
        labels = [np.arange(len(levels[0])) for _ in labels]
    if arm == "A4":
        labels = labels[::-1]
    return Branches(tuple(names), tuple(np.asarray(x, np.int64) for x in labels))


def bt_phases(branches: int) -> list[list[float]]:
    """Returns the loss weights of B-CNN's schedule, phase by phase; for two branches exactly those of that paper.

    Args:
      branches: L, number of branches.
    Returns:
      One list a phase: [branch 1, ..., branch L, classes].
    """
    count = branches + 1
    phases = []
    for at in range(count):
        if at == 0:
            row = [0.02 / branches] * count
            row[0] = 0.98
        elif at < branches:
            row = [0.2 / branches] * count
            row[at] = 0.8
        else:
            row = [0.1 / max(branches - 1, 1)] * count
            row[at], row[at - 1] = 0.7, 0.2 if branches > 1 else 0.3
        phases.append(row)
    phases.append([0.0] * branches + [1.0])
    return phases


def bt_switches(branches: int, epochs: int, switch_epochs: Sequence[int] = ()) -> list[int]:
    """Returns the epochs, counted from 0, from which the next phase of B-CNN's schedule holds.

    Args:
      branches: L, number of branches.
      epochs: in all.
      switch_epochs: --bt-switch, epochs from 0 at whose end the phase changes; if empty, B-CNN's shares of the epochs.
    Raises:
      ValueError: not as many as phases need, or not ascending.
    """
    needed = branches + 1
    if switch_epochs:
        if len(switch_epochs) != needed or any(b <= a for a, b in itertools.pairwise(switch_epochs)):
            raise ValueError(f"--bt-switch: {needed} ascending epochs are needed for {branches} branches")
        return [epoch + 1 for epoch in switch_epochs]
    return [round(epochs * share) for share in np.linspace(*BT_SWITCH, needed)]


def loss_weights(
    schedule: str, branches: int, strength: float, epoch: int, epochs: int, switch_epochs: Sequence[int] = ()
) -> list[float]:
    """Returns the weights of the losses in an epoch.

    Args:
      schedule: joint (`strength` for each branch, 1 for the classes) or bt.
      branches: L, number of branches.
      strength: --lambda.
      epoch: counted from 0.
      epochs: in all.
      switch_epochs: --bt-switch.
    Returns:
      [branch 1, ..., branch L, classes].
    """
    if schedule == "joint" or not branches:
        return [strength] * branches + [1.0]
    switches = bt_switches(branches, epochs, switch_epochs)
    return bt_phases(branches)[sum(epoch >= at for at in switches)]


def total_loss(
    logits: Tensor,
    branch_logits: Sequence[Tensor],
    labels: Tensor,
    maps: Sequence[Tensor],
    weights: Sequence[float],
    smoothing: float = 0.0,
) -> Tensor:
    """Returns the summed loss of a batch: weighted cross-entropies of the classes and of each branch.

    Args:
      logits: float32 [B, K].
      branch_logits: float32 [B, n_l] each.
      labels: int64 [B] classes.
      maps: int64 [K] for each branch, class -> its label there.
      weights: [branches..., classes].
      smoothing: of the targets, in [0, 1].
    Returns:
      float32 scalar, the sum over the batch.
    """
    loss = weights[-1] * F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    for value, table, weight in zip(branch_logits, maps, weights[:-1], strict=True):
        if weight:
            branch = F.cross_entropy(value, table[labels], reduction="sum", label_smoothing=smoothing)
            loss = loss + weight * branch
    return loss


def joined(
    log_probabilities: np.ndarray,
    branch_logs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    betas: Sequence[float],
) -> np.ndarray:
    """Returns log p(c) + sum of beta_l log p_l(g_l(c)), float [N, K] (--predict product).

    Args:
      log_probabilities: float [N, K], of the classes.
      branch_logs: float [N, n_l] for each branch.
      labels: int64 [K] for each branch, class -> its label there.
      betas: weight of each branch.
    """
    out = log_probabilities.copy()
    for logs, table, beta in zip(branch_logs, labels, betas, strict=True):
        out += beta * logs[:, table]
    return out


def choose_betas(
    log_probabilities: np.ndarray, branch_logs: Sequence[np.ndarray], labels: Sequence[np.ndarray], truth: np.ndarray
) -> list[float]:
    """Returns the branch weights that predict the validation images best; the smallest ones if several do.

    Args:
      log_probabilities: float [N, K], of the classes.
      branch_logs: float [N, n_l] for each branch.
      labels: int64 [K] for each branch, class -> its label there.
      truth: int64 [N] classes.
    """
    grid = (0.0, 0.25, 0.5, 1.0)
    best, chosen = -1.0, [0.0] * len(labels)
    for betas in itertools.product(grid, repeat=len(labels)):
        right = float((joined(log_probabilities, branch_logs, labels, betas).argmax(1) == truth).mean())
        if right > best + 1e-12:
            best, chosen = right, list(betas)
    return chosen


def gradient_norms(network: torch.nn.Module, names: Sequence[str]) -> Tensor:
    """Returns the L2 norm of each layer's weight gradient and its ratio to the weight's norm, float32 [2, layers].

    Args:
      network: after a backward pass.
      names: of its convolutions.
    """
    weights = [getattr(network, name).weight for name in names]
    norms = torch.stack([w.grad.norm() if w.grad is not None else w.new_zeros(()) for w in weights])
    return torch.stack([norms, norms / torch.stack([w.detach().norm() for w in weights])])
