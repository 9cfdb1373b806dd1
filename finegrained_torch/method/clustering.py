"""Pseudo-labels of all coarse classes: the clusters of each class, then their numbering over all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from finegrained_torch.method.cluster_one_class import NOT_RUN, ClassFit, Settings, fit_class


class ClassRows(NamedTuple):
    """The images of one coarse class.

    Attributes:
      label: the coarse class.
      rows: int64 [n], its certain images among all features.
    """

    label: int
    rows: np.ndarray


@dataclass
class Clustering:
    """Pseudo-labels of N training images.

    Attributes:
      pseudo: int64 [N], 0..num_labels-1, -1 for uncertain images.
      raw: int64 [N], the arg-max cluster within the class as HDBSCAN numbers it, -1 for uncertain images.
      hard: int64 [N], HDBSCAN's own label, -1 for noise, -2 for uncertain images and classes that it was not run on.
      strength: float32 [N], the largest membership, NaN for uncertain images.
      embedding: float32 [N, components], NaN for uncertain images.
      num_labels: number of pseudo-labels S.
      parent: int64 [S], the coarse class of each pseudo-label.
      per_class: in visiting order: class, count, clusters, first (its lowest pseudo-label), silhouette, noise_share
        (None if HDBSCAN was not run), disagreement, repaired, warnings.
    """

    pseudo: np.ndarray
    raw: np.ndarray
    hard: np.ndarray
    strength: np.ndarray
    embedding: np.ndarray
    num_labels: int
    parent: np.ndarray
    per_class: list[dict[str, Any]]


def visiting_order(coarse_labels: np.ndarray) -> list[int]:
    """Lists the coarse classes in order of first appearance in file order. Source: authors' pipeline.py."""
    values, first = np.unique(coarse_labels, return_index=True)
    return [int(value) for value in values[np.argsort(first)]]


def compact(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """DEVIATION FGL-D15: cluster numbers without gaps, so that the ids of two classes cannot collide.

    Args:
      raw: int64 [n], may skip numbers.
    Returns:
      (int64 [n] in 0..k-1 in the order of `raw`, k).
    """
    kinds, local = np.unique(raw, return_inverse=True)
    return local.astype(np.int64), len(kinds)


def split_classes(
    features: np.ndarray, coarse_labels: np.ndarray, certain: np.ndarray, settings: Settings
) -> list[ClassRows]:
    """Finds the images of each coarse class, and checks that they can be clustered.

    Args:
      features: float32 [N, D], an array or a memory map.
      coarse_labels: int64 [N].
      certain: bool [N].
      settings: of UMAP and HDBSCAN.
    Returns:
      All coarse classes in visiting order, also those without a certain image.
    Raises:
      ValueError: shapes that do not fit, settings out of range, or features that are not finite or all equal.
    """
    coarse_labels, certain = np.asarray(coarse_labels), np.asarray(certain, bool)
    if features.ndim != 2 or len(features) == 0 or not len(features) == len(coarse_labels) == len(certain):
        raise ValueError(
            f"features {features.shape}, coarse labels {coarse_labels.shape}, certain {certain.shape}: "
            "one row of features, one label and one flag for each image are needed"
        )
    if settings.reducer not in ("umap", "none"):
        raise ValueError(f"reducer {settings.reducer!r} is not umap or none")
    if settings.min_cluster_size < 2 or settings.neighbors < 2 or settings.components < 1:
        raise ValueError(
            f"min_cluster_size {settings.min_cluster_size}, neighbors {settings.neighbors}, components "
            f"{settings.components}: at least 2, 2 and 1 are needed"
        )
    alike = True
    for at in range(0, len(features), 4096):  # in pieces: the features may be larger than memory
        piece = features[at : at + 4096]
        bad = ~np.isfinite(piece).all(1)
        if bad.any():
            raise ValueError(f"features of image {at + int(bad.argmax())} are not finite; run --stage features again")
        alike = alike and bool((piece == features[0]).all())
    if alike and len(features) > 1:
        raise ValueError("the features of all images are equal; run --stage features --overwrite")
    return [
        ClassRows(label, np.flatnonzero((coarse_labels == label) & certain)) for label in visiting_order(coarse_labels)
    ]


def cluster_classes(
    features: np.ndarray, coarse_labels: np.ndarray, certain: np.ndarray, **settings: Any
) -> Clustering:
    """Clusters the certain images of every coarse class by UMAP and HDBSCAN, and numbers all clusters.

    Args:
      features: float32 [N, D], an array or a memory map.
      coarse_labels: int64 [N].
      certain: bool [N].
      **settings: of `cluster_one_class.Settings`, such as min_cluster_size; what is left out is the release's.
    Returns:
      The pseudo-labels. A class without certain images has none, and its warnings say so.
    Raises:
      ValueError: as `split_classes`.
    Source: authors' pipeline.py. Deviations: FGL-D14, FGL-D15, FGL-D16, FGL-D17.
    """
    chosen = Settings(**settings)
    classes = split_classes(features, coarse_labels, certain, chosen)
    clusters = {one.label: fit_class(features[one.rows], chosen) for one in classes if len(one.rows)}
    return number_clusters(clusters, classes, len(features), chosen.width(features.shape[1]))


def number_clusters(
    clusters: Mapping[int, ClassFit], classes: Sequence[ClassRows], count: int, width: int
) -> Clustering:
    """Joins the classes in visiting order; the offset of each is the number of labels of those before it.

    Args:
      clusters: coarse class -> its clusters; classes without certain images are missing.
      classes: all coarse classes in visiting order.
      count: number of images N.
      width: columns of the embedding.
    """
    # DEVIATION FGL-D18: NumPy arrays, in which an assignment holds
    out = Clustering(
        pseudo=np.full(count, -1, np.int64),
        raw=np.full(count, -1, np.int64),
        hard=np.full(count, NOT_RUN, np.int64),
        strength=np.full(count, np.nan, np.float32),
        embedding=np.full((count, width), np.nan, np.float32),
        num_labels=0,
        parent=np.empty(0, np.int64),
        per_class=[],
    )
    parent: list[int] = []
    for label, rows in classes:
        entry: dict[str, Any] = {"class": label, "count": len(rows), "clusters": 0, "first": out.num_labels}
        out.per_class.append(entry)
        if label not in clusters:
            entry |= {"silhouette": None, "noise_share": None, "disagreement": None, "repaired": 0}
            entry["warnings"] = ["no certain image in this class"]
            continue
        fit = clusters[label]
        local, kinds = compact(fit.raw)
        out.pseudo[rows] = local + out.num_labels
        for name in ("raw", "hard", "strength", "embedding"):
            getattr(out, name)[rows] = getattr(fit, name)
        placed = fit.hard >= 0
        entry |= {
            "clusters": kinds,
            "silhouette": fit.silhouette if np.isfinite(fit.silhouette) else None,
            "noise_share": None if (fit.hard == NOT_RUN).all() else float(np.mean(~placed)),
            "disagreement": float(np.mean(fit.raw[placed] != fit.hard[placed])) if placed.any() else None,
            "repaired": fit.repaired,
            "warnings": fit.warnings,
        }
        parent += [label] * kinds
        out.num_labels += kinds
    out.parent = np.array(parent, np.int64)
    return out
