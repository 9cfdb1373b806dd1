"""What a layer knows: linear probes on its pooled responses, for every level of the tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2

from hierarchy_cnn_torch.method.statistics import chance_corrected

PENALTIES = (1e-4, 1e-2)


def standardise(train: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Subtracts the training mean and divides by the training deviation, feature by feature; constants become 0.

    Args:
      train: float [N, D].
      *others: float [M, D] each, treated with the mean and deviation of `train`.
    """
    mean, sd = train.mean(0), train.std(0)
    sd = torch.where(sd > 1e-8, sd, torch.full_like(sd, float("inf")))
    return [(x - mean) / sd for x in (train, *others)]


def fit_logistic(
    features: torch.Tensor, labels: torch.Tensor, num_labels: int, penalty: float, steps: int = 40
) -> torch.Tensor:
    """Fits a multinomial logistic regression with L2 by full-batch L-BFGS from zero; no random draw.

    Args:
      features: float32 [N, D], standardised.
      labels: int64 [N].
      num_labels: classes.
      penalty: weight of the squared weights' sum (not the bias).
      steps: of L-BFGS, at most.
    Returns:
      float32 [D + 1, num_labels]; the last row is the bias.
    """
    with torch.inference_mode(False), torch.enable_grad():
        features = features.clone()
        weights = torch.zeros(features.shape[1] + 1, num_labels, device=features.device, requires_grad=True)
        solver = torch.optim.LBFGS([weights], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(features @ weights[:-1] + weights[-1], labels)
            loss = loss + penalty * weights[:-1].square().sum()
            loss.backward()
            return loss

        solver.step(closure)
        return weights.detach()


def accuracy_of(weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the share of correct labels, in [0, 1].

    Args:
      weights: float32 [D + 1, L], as `fit_logistic` returns.
      features: float32 [N, D].
      labels: int64 [N].
    """
    return float(((features @ weights[:-1] + weights[-1]).argmax(1) == labels).float().mean())


def probe(splits: Sequence[torch.Tensor], labels: Sequence[np.ndarray], level: np.ndarray) -> float:
    """Returns the chance-corrected test accuracy of a probe for one level; the best of PENALTIES on validation.

    Args:
      splits: float32 [N, D] features of train, validation, test.
      labels: int [N] class labels of the same.
      level: int [K] group labels (np.arange(K) for the classes themselves).
    Returns:
      (a - q) / (1 - q) with q the largest group's share of the test images; NaN if that is all of them.
    """
    train, val, test = standardise(*splits)
    groups = int(level.max()) + 1
    targets = [torch.from_numpy(level[y]).to(train.device) for y in labels]
    fits = [fit_logistic(train, targets[0], groups, penalty) for penalty in PENALTIES]
    best = max(fits, key=lambda weights: accuracy_of(weights, val, targets[1]))
    share = float(np.bincount(level[labels[2]], minlength=groups).max() / len(labels[2]))
    return chance_corrected(accuracy_of(best, test, targets[2]), share)


def kmeans_purity(features: np.ndarray, groups: np.ndarray) -> float:
    """Label-free variant: share of images whose k-means cluster has their group as its majority.

    Args:
      features: float [N, D].
      groups: int [N] in [0, G); k = G clusters.
    Returns:
      In [1/G, 1].
    """
    k = int(groups.max()) + 1
    x = np.asarray(features, np.float64)
    sd = x.std(0)
    x = (x - x.mean(0)) / np.where(sd > 1e-8, sd, np.inf)
    _, label = kmeans2(x, k, 20, minit="++", seed=np.random.default_rng([0, 0xC1]))
    table = np.zeros((k, k))
    np.add.at(table, (label, groups), 1)
    return float(table.max(1).sum() / len(groups))
