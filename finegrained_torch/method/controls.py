"""Sub-labels that the method's clusters are compared with: made at random, or by k-means."""

from __future__ import annotations

import warnings

import numpy as np

from finegrained_torch.method.clustering import compact, visiting_order

_RANDOM, _STARTS = 0x52414E44, 10  # a word of the seed; starts of k-means


def random_labels(pseudo: np.ndarray, coarse: np.ndarray, seed: int) -> np.ndarray:
    """Deals the pseudo-labels out at random within each coarse class, so that the cluster sizes stay.

    Args:
      pseudo: int64 [N], -1 for images without a label.
      coarse: int64 [N].
      seed: >= 0.
    Returns:
      int64 [N], a permutation of `pseudo` within each class that leaves -1 where it is; a function of (seed, class).
    """
    out = pseudo.copy()
    for label in np.unique(coarse).tolist():
        members = np.flatnonzero((coarse == label) & (pseudo >= 0))
        out[members] = pseudo[members][np.random.default_rng([seed, _RANDOM, label]).permutation(len(members))]
    return out


def kmeans_labels(points: np.ndarray, pseudo: np.ndarray, coarse: np.ndarray, seed: int) -> np.ndarray:
    """Clusters each coarse class by k-means, with as many clusters as it has pseudo-labels.

    Args:
      points: float [N, ...], anything for images without a label.
      pseudo: int64 [N], -1 for images without a label.
      coarse: int64 [N].
      seed: random_state of scikit-learn's KMeans, 10 starts.
    Returns:
      int64 [N], numbered over all classes like `pseudo`, -1 where that is.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    out = np.full(len(pseudo), -1, np.int64)
    offset = 0
    for label in visiting_order(coarse):
        members = np.flatnonzero((coarse == label) & (pseudo >= 0))
        if not len(members):
            continue
        k = len(np.unique(pseudo[members]))
        flat = np.ascontiguousarray(points[members], np.float32).reshape(len(members), -1)
        with threadpool_limits(limits=2), warnings.catch_warnings():  # more threads add up in another order
            warnings.simplefilter("ignore")  # fewer distinct points than clusters
            clusters = KMeans(n_clusters=k, n_init=_STARTS, random_state=seed).fit_predict(flat)
        local, kinds = compact(clusters.astype(np.int64))
        out[members] = local + offset
        offset += kinds
    return out
