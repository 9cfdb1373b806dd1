"""Losses per sample on logits, and the decision: cross-entropy over independent sigmoids, for classes and subclasses.

Notation: B samples, C classes, S >= C subclasses, p = sigmoid(logit), w = `--subclass_label_weight`. Everything is
computed in float32 even under autocast, with the authors' eps inside the logarithm: the usual log-sigmoid form differs
from it in the fifth digit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 10e-6  # as the authors write it: 1e-5 [mylosses.py]


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over outputs of the binary cross-entropy with one positive output per sample.

    Args:
      logits: float [B, S].
      labels: int64 [B], in 0..S-1.
    Returns:
      float32 [B].
    Source: authors' mylosses.py.
    """
    p = torch.sigmoid(logits.float())  # [B, S]
    positive = p.gather(1, labels[:, None])[:, 0]  # [B]
    negative = -torch.log(1 - p + EPS)  # [B, S]
    excluded = negative.gather(1, labels[:, None])[:, 0]
    return -torch.log(positive + EPS) + negative.sum(1) - excluded


def softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy [B]: the loss of the Cutout baselines, `--baseline_loss softmax`."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def label_weights(subclass2class: Tensor, weight: float) -> Tensor:
    """Table of m: by how much the negative term of output s is reduced for a sample of subclass t.

    Args:
      subclass2class: int64 [S].
      weight: w in [0, 1].
    Returns:
      float32 [S, S]: 1 on the diagonal, w for siblings (same class), 0 elsewhere; row t belongs to subclass t.
    Source: authors' trainutils.py, which builds it per sample in Python.
    """
    table = weight * (subclass2class[:, None] == subclass2class[None, :]).float()
    # DEVIATION SDN-D17: one table, not per-sample targets
    return table.fill_diagonal_(1.0)


def subclass_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Subclass cross-entropy: siblings of the true subclass must be negative with weight 1 - w only.

    Args:
      logits: float [B, S].
      labels: int64 [B], subclasses.
      weights: float32 [S, S] from `label_weights`.
    Returns:
      float32 [B].
    Source: authors' mylosses.py and trainutils.py.
    """
    p = torch.sigmoid(logits.float())
    positive = p.gather(1, labels[:, None])[:, 0]
    return -torch.log(positive + EPS) - ((1 - weights[labels]) * torch.log(1 - p + EPS)).sum(1)


def multilabel_loss(logits: Tensor, indicator: Tensor, subclass2class: Tensor, weight: float) -> Tensor:
    """Subclass cross-entropy for videos with several labels.

    Args:
      logits: float [B, S].
      indicator: float [B, S], 1 for each subclass label.
      subclass2class: int64 [S].
      weight: w in [0, 1]; 0 is the plain sigmoid cross-entropy.
    Returns:
      float32 [B], summed over outputs.
    Source: released TensorFlow code for w = 0; the extension (negative weight 1 - w where s is no label of the video
      but a sibling subclass is) is ours. Deviation: SDN-Y04.
    """
    p = torch.sigmoid(logits.float())
    indicator = indicator.float()
    negative = 1 - indicator
    if weight:
        # [B, S], of which the first C columns are used: asking for C would wait for the GPU
        by_class = torch.zeros_like(indicator).index_add_(1, subclass2class, indicator)
        sibling = (by_class[:, subclass2class] > 0) & (indicator == 0)  # [B, S]
        negative = negative - weight * sibling.float()  # DEVIATION SDN-Y04: sibling weight also for videos
    return -(indicator * torch.log(p + EPS) + negative * torch.log(1 - p + EPS)).sum(1)


def decide(logits: Tensor, subclass2class: Tensor) -> Tensor:
    """Decides for the class of the strongest subclass.

    Args:
      logits: float [B, S].
      subclass2class: int64 [S].
    Returns:
      int64 [B], classes.
    Source: authors' testutils.py.
    """
    return subclass2class[logits.argmax(1)]


def class_scores(scores: Tensor, subclass2class: Tensor, classes: int) -> Tensor:
    """Gives each class the maximum over its subclasses; the best class is that of `decide`.

    Args:
      scores: float [B, S].
      subclass2class: int64 [S].
      classes: C.
    Returns:
      float [B, C].
    Source: authors' subclasscnn.py (a loop over videos and classes). Deviation: SDN-Y05, SDN-Y06.
    """
    out = torch.full((len(scores), classes), -torch.inf, dtype=scores.dtype, device=scores.device)
    # DEVIATION SDN-Y05: one scatter, not two Python loops. DEVIATION SDN-Y06: no added classes is no special case
    return out.scatter_reduce(1, subclass2class.expand(len(scores), -1), scores, "amax")
