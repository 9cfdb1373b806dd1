"""Hit@1, PERR, MAP and GAP of YouTube-8M.

Kept per video: its 20 best scores, their classes and whether they are labels; sorted once at the end, globally for GAP
and by class for MAP. Source: google/youtube-8m,
eval_util.py and average_precision_calculator.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Metrics:
    """Sums over the batches seen so far.

    Attributes:
      classes: C.
      top_k: size of the retrieval set of a video.
      videos: number of videos.
      hits: videos whose best class is one of their labels.
      precision: sum over the videos of the precision at as many classes as they have labels.
      positives: labels of each class, float64 [C].
      retrieved: of each batch the classes that its videos retrieve, their scores, and whether they are labels.
    """

    classes: int
    top_k: int = 20
    videos: int = 0
    hits: float = 0.0
    precision: float = 0.0
    positives: np.ndarray = field(default_factory=lambda: np.zeros(()))  # then [C]
    retrieved: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, scores: np.ndarray, indicator: np.ndarray) -> None:
        """Adds one batch.

        Args:
          scores: float [n, C], class scores.
          indicator: [n, C], 1 for each label.
        """
        n = len(scores)
        rows = np.arange(n)[:, None]
        labels = indicator > 0
        wanted = labels.sum(1)
        order = _best(scores, max(self.top_k, int(wanted.max(initial=1))))
        ranked = labels[rows, order]  # [n, K]
        self.videos += n
        self.hits += float(ranked[:, 0].sum())
        inside = np.arange(order.shape[1])[None, :] < wanted[:, None]
        hits = (ranked & inside & (scores[rows, order] > 0)).sum(1)
        self.precision += float((hits / np.maximum(wanted, 1)).sum())
        self.positives = self.positives + labels.sum(0)
        top = order[:, : self.top_k]
        # Class by class within a batch, videos in order: the order in which the original collects the pairs.
        pairs = np.argsort(top.ravel(), kind="stable")
        columns = (top.astype(np.int32), scores[rows, top], labels[rows, top])
        self.retrieved.append(tuple(column.ravel()[pairs] for column in columns))

    def result(self) -> dict[str, float]:
        """The four metrics, fractions in [0, 1]; nan without videos."""
        if not self.videos:
            return dict.fromkeys(("hit_at_1", "perr", "map", "gap"), float("nan"))
        names, scores, right = (np.concatenate(parts) for parts in zip(*self.retrieved, strict=True))
        order = np.argsort(names, kind="stable")
        bounds = np.searchsorted(names[order], np.arange(self.classes + 1))
        labelled = np.flatnonzero(self.positives)
        per_class = []
        for label in labelled:  # empty classes are left out; a class never retrieved counts 0
            pairs = order[bounds[label] : bounds[label + 1]]
            per_class.append(average_precision(scores[pairs], right[pairs], self.positives[label]))
        return {
            "hit_at_1": self.hits / self.videos,
            "perr": self.precision / self.videos,
            "map": float(np.mean(per_class)) if len(labelled) else 0.0,
            "gap": average_precision(scores, right, float(self.positives.sum())),
        }


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Classes of the k best scores of each video, descending, the smaller class first among equals: int64 [n, k]."""
    if k < scores.shape[1]:
        last = np.partition(scores, -k, axis=1)[:, -k, None]  # the k-th best score of each video
        equal = scores == last
        left = k - (scores > last).sum(1, keepdims=True)  # places for classes that share it: the smallest get them
        part = np.nonzero((scores > last) | (equal & (np.cumsum(equal, axis=1) <= left)))[1].reshape(-1, k)
    else:
        part = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    inner = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
    return np.take_along_axis(part, inner, 1)


def average_precision(scores: np.ndarray, right: np.ndarray, positives: float) -> float:
    """Sum of precision@i over the ranks that hold a positive, divided by all positives of the data.

    Args:
      scores: float [n].
      right: bool [n].
      positives: P, also those that were not retrieved.
    Returns:
      In [0, 1]. Ties: shuffled with Python's seed 0, then sorted stably in descending order.
    """
    if not positives or not len(scores):
        return 0.0
    shuffled = np.array(random.Random(0).sample(range(len(scores)), len(scores)))
    order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    ranked = right[order]
    ranks = np.flatnonzero(ranked) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / positives)
