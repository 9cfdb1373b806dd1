"""How well pseudo-labels follow known subclasses: per coarse class, over classes, and globally. NumPy arrays in."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAMES = ("ari", "nmi", "homogeneity", "completeness", "purity")


def contingency(labels: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts n[k, j] of images with cluster k and subclass j.

    Args:
      labels: int64 [n], cluster of each image.
      truth: int64 [n], its subclass.
    Returns:
      (int64 [K, J], the cluster of each row [K], the subclass of each column [J]).
    """
    from sklearn.metrics.cluster import contingency_matrix

    return contingency_matrix(labels, truth), np.unique(labels), np.unique(truth)


def purity(labels: np.ndarray, truth: np.ndarray) -> float:
    """(1/n) sum over clusters of the largest subclass's count, in (0, 1]."""
    table, _, _ = contingency(labels, truth)
    return float(table.max(1).sum() / table.sum())


def agreement(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The five scores of one set of images.

    Args:
      labels: int64 [n], cluster of each image; n >= 1.
      truth: int64 [n], its subclass.
    Returns:
      NAMES -> value: adjusted Rand index in [-1, 1], the others in [0, 1]; NMI with the arithmetic mean.
    """
    from sklearn import metrics

    return {
        "ari": float(metrics.adjusted_rand_score(truth, labels)),
        "nmi": float(metrics.normalized_mutual_info_score(truth, labels, average_method="arithmetic")),
        "homogeneity": float(metrics.homogeneity_score(truth, labels)),
        "completeness": float(metrics.completeness_score(truth, labels)),
        "purity": purity(labels, truth),
    }


def score(pseudo: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> dict[str, Any]:
    """Scores of pseudo-labels against known subclasses, on the images that have one.

    Args:
      pseudo: int64 [N], -1 if an image has none.
      fine: int64 [N], -1 if unknown.
      coarse: int64 [N].
    Returns:
      "per_class": list of {class, count, clusters, subclasses, and NAMES};
      "weighted": NAMES -> mean over classes, weighted by their images; "class_mean": unweighted;
      "global": NAMES over all images at once. It is inflated: the coarse label is given, so clusters of different
      classes never mix. Empty dicts where no image has both labels.
    """
    used = (pseudo >= 0) & (fine >= 0)
    per_class: list[dict[str, Any]] = []
    for label in np.unique(coarse[used]).tolist():
        members = used & (coarse == label)
        scores = agreement(pseudo[members], fine[members])
        kinds = {"clusters": len(np.unique(pseudo[members])), "subclasses": len(np.unique(fine[members]))}
        per_class.append({"class": label, "count": int(members.sum()), **kinds, **scores})
    if not per_class:
        return {"per_class": [], "weighted": {}, "class_mean": {}, "global": {}}
    counts = np.array([entry["count"] for entry in per_class], float)
    values = {name: np.array([entry[name] for entry in per_class]) for name in NAMES}
    return {
        "per_class": per_class,
        "weighted": {name: float((values[name] * counts).sum() / counts.sum()) for name in NAMES},
        "class_mean": {name: float(values[name].mean()) for name in NAMES},
        "global": agreement(pseudo[used], fine[used]),
    }


def between_seeds(labels: Sequence[np.ndarray], coarse: np.ndarray) -> dict[int, float]:
    """Adjusted Rand index of two seeds' pseudo-labels of one coarse class, averaged over all pairs of seeds.

    Each pair is compared on the images that have a label in both. Two seeds that both leave a class whole agree without
    having found anything: such a pair is left out, and so is a class without any other pair.

    Args:
      labels: of each seed int64 [N], -1 where an image has none.
      coarse: int64 [N].
    Returns:
      coarse class -> mean in [-1, 1].
    """
    from sklearn.metrics import adjusted_rand_score

    means = {}
    for label in np.unique(coarse).tolist():
        of_class = [seed[coarse == label] for seed in labels]
        scores = []
        for a, b in itertools.combinations(of_class, 2):
            both = (a >= 0) & (b >= 0)
            if both.any() and max(len(np.unique(a[both])), len(np.unique(b[both]))) > 1:
                scores.append(adjusted_rand_score(a[both], b[both]))
        if scores:
            means[label] = float(np.mean(scores))
    return means


def contingency_csv(pseudo: np.ndarray, fine: np.ndarray, parent: Sequence[int], fine_names: Sequence[str]) -> str:
    """The contingency table of all classes as CSV: cluster, its coarse class, then one column per subclass.

    Args:
      pseudo: int64 [N], -1 is left out.
      fine: int64 [N], -1 is left out.
      parent: coarse class of each pseudo-label.
      fine_names: of the subclasses.
    """
    used = (pseudo >= 0) & (fine >= 0)
    table, clusters, kinds = contingency(pseudo[used], fine[used])
    names = [fine_names[kind] for kind in kinds.tolist()]
    lines = [[cluster, parent[cluster], *row] for cluster, row in zip(clusters.tolist(), table.tolist(), strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["cluster", "coarse", *names], *lines])
    return text.getvalue()


def in_between(hard: np.ndarray, strength: np.ndarray, coarse: np.ndarray, certain: np.ndarray) -> dict[str, float]:
    """Do uncertain images lie between clusters? From a clustering of all images, certain or not (claim C4).

    Images that HDBSCAN was not run on, such as those of a class that is too small, are left out.

    Args:
      hard: int64 [N], HDBSCAN's labels, -1 for noise, -2 where it was not run.
      strength: float32 [N], largest membership.
      coarse: int64 [N].
      certain: bool [N].
    Returns:
      noise_certain, noise_uncertain: share of noise; weak_certain, weak_uncertain: share of images in the lowest
      tenth of their class by membership. Empty if either group is, as in a clustering of the certain images alone.
    """
    ran = hard >= -1
    hard, strength, coarse, certain = hard[ran], strength[ran], coarse[ran], certain[ran]
    if certain.all() or not certain.any():
        return {}
    weak = np.zeros(len(hard), bool)
    for label in np.unique(coarse):
        members = np.flatnonzero(coarse == label)
        order = members[np.argsort(strength[members], kind="stable")]
        weak[order[: max(1, len(members) // 10)]] = True
    noise = hard == -1
    return {
        "noise_certain": float(noise[certain].mean()),
        "noise_uncertain": float(noise[~certain].mean()),
        "weak_certain": float(weak[certain].mean()),
        "weak_uncertain": float(weak[~certain].mean()),
    }


def structure(per_class: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Class-size-weighted means of what HDBSCAN says about itself: silhouette, noise_share, disagreement.

    Args:
      per_class: of a Clustering; None values are left out of their mean.
    """
    means = {}
    for name in ("silhouette", "noise_share", "disagreement"):
        known = [(entry[name], entry["count"]) for entry in per_class if entry.get(name) is not None]
        if known:
            means[name] = float(sum(value * count for value, count in known) / sum(count for _, count in known))
    return means
