"""Pseudo-labels of all coarse classes: clusters of each class, then their numbering over all classes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch.cluster_jobs import Found, Job, on_disk, run
from finegrained_torch.membership import Settings
from reproduction.runtime.run_folder import UserError


@dataclass
class Clustering:
    """Pseudo-labels of N training images.

    Attributes:
      pseudo: int64 [N], 0..num_labels-1, -1 for uncertain images.
      raw: int64 [N], the arg-max cluster within the class as HDBSCAN numbers it, -1 for uncertain images.
      hard: int64 [N], HDBSCAN's own label, -1 for noise, -2 for uncertain images.
      strength: float32 [N], the largest membership, NaN for uncertain images.
      embedding: float32 [N, components], NaN for uncertain images.
      num_labels: S.
      parent: int64 [S], the coarse class of each pseudo-label.
      per_class: in visiting order: class, count, clusters, first (its lowest pseudo-label), silhouette, noise_share,
        disagreement, repaired, warnings.
      new_pseudo: int64 [M], for `new` images of `cluster_classes`; empty without.
    """

    pseudo: np.ndarray
    raw: np.ndarray
    hard: np.ndarray
    strength: np.ndarray
    embedding: np.ndarray
    num_labels: int
    parent: np.ndarray
    per_class: list[dict[str, Any]]
    new_pseudo: np.ndarray


def visiting_order(coarse_labels: np.ndarray) -> list[int]:
    """Coarse classes in order of first appearance in file order. Source: authors' pipeline.py."""
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


def _check(features: np.ndarray, coarse_labels: np.ndarray, certain: np.ndarray, settings: Settings) -> None:
    if features.ndim != 2 or len(features) == 0 or not len(features) == len(coarse_labels) == len(certain):
        raise UserError(
            f"features {features.shape}, coarse labels {coarse_labels.shape}, certain {certain.shape}: "
            "one row of features, one label and one flag for each image are needed"
        )
    if settings.reducer not in ("umap", "none"):
        raise UserError(f"reducer {settings.reducer!r} is not umap or none")
    if settings.min_cluster_size < 2 or settings.neighbors < 2 or settings.components < 1:
        raise UserError(
            f"min_cluster_size {settings.min_cluster_size}, neighbors {settings.neighbors}, components "
            f"{settings.components}: at least 2, 2 and 1 are needed"
        )
    alike = True
    for at in range(0, len(features), 4096):  # in pieces: the features may be larger than memory
        piece = features[at : at + 4096]
        bad = ~np.isfinite(piece).all(1)
        if bad.any():
            raise UserError(f"features of image {at + int(bad.argmax())} are not finite; run --stage features again")
        alike = alike and bool((piece == features[0]).all())
    if alike and len(features) > 1:
        raise UserError("the features of all images are equal; run --stage features --overwrite")


def cluster_classes(
    features: np.ndarray,
    coarse_labels: np.ndarray,
    certain: np.ndarray,
    *,
    neighbors: int = 30,
    min_dist: float = 0.0,
    components: int = 4,
    min_cluster_size: int = 100,
    seed: int = 42,
    workers: int | None = None,
    reducer: str = "umap",
    progress: bool = True,
    keep: Path | None = None,
    new: tuple[np.ndarray, np.ndarray] | None = None,
    pool: ProcessPoolExecutor | None = None,
) -> Clustering:
    """UMAP and HDBSCAN of the certain images of every coarse class, and the numbering of all clusters.

    Args:
      features: float32 [N, D], an array or a memory map. coarse_labels: int64 [N]. certain: bool [N].
      neighbors, min_dist, components, min_cluster_size, seed, reducer: see `membership.Settings`.
      workers: processes at once; None as many as cores and memory allow, 0 none (all in this process).
      progress: show a bar, and each step of each class.
      keep: folder for the results of finished classes, used again where the same class has the same input.
      new: (float32 [M, D], int64 [M] coarse labels) of images to assign to the clusters afterwards.
      pool: of `cluster_jobs.open_pool`, where several clusterings share their processes.
    Returns:
      The pseudo-labels. A class without certain images has none, and says so in its warnings.
    Raises:
      UserError: shapes that do not fit, values that are not finite, or a process that was killed.
    Source: authors' pipeline.py; section 1.5. Deviations: FGL-D14, FGL-D15, FGL-D16, FGL-D17.
    """
    settings = Settings(neighbors, min_dist, components, min_cluster_size, seed, reducer)
    coarse_labels, certain = np.asarray(coarse_labels, np.int64), np.asarray(certain, bool)
    _check(features, coarse_labels, certain, settings)
    order = visiting_order(coarse_labels)
    new_features, new_coarse = new if new is not None else (None, np.empty(0, np.int64))
    rows = {label: np.flatnonzero((coarse_labels == label) & certain) for label in order}
    new_rows = {label: np.flatnonzero(np.asarray(new_coarse) == label) for label in order}
    found: dict[int, Found] = {}
    with on_disk(features) as path, contextlib.ExitStack() as stack:
        new_path = stack.enter_context(on_disk(new_features)) if new_features is not None else ""
        jobs = [Job(c, path, rows[c], settings, progress, new_path, new_rows[c]) for c in order if len(rows[c])]
        run(jobs, found, features, new_features, workers, progress, keep, pool)
    return _number(found, order, rows, new_rows, len(features), len(new_coarse), settings, features.shape[1])


def _number(
    found: Mapping[int, Found],
    order: Sequence[int],
    rows: Mapping[int, np.ndarray],
    new_rows: Mapping[int, np.ndarray],
    count: int,
    new_count: int,
    settings: Settings,
    dims: int,
) -> Clustering:
    """Joins the classes in visiting order; the offset of each is the number of labels of those before it."""
    # DEVIATION FGL-D18: NumPy arrays, in which an assignment holds
    width = settings.components if settings.reducer == "umap" else dims
    out = Clustering(
        pseudo=np.full(count, -1, np.int64),
        raw=np.full(count, -1, np.int64),
        hard=np.full(count, -2, np.int64),
        strength=np.full(count, np.nan, np.float32),
        embedding=np.full((count, width), np.nan, np.float32),
        num_labels=0,
        parent=np.empty(0, np.int64),
        per_class=[],
        new_pseudo=np.full(new_count, -1, np.int64),
    )
    parent: list[int] = []
    for label in order:
        own = rows[label]
        entry: dict[str, Any] = {"class": label, "count": len(own), "clusters": 0, "first": out.num_labels}
        if label not in found:
            entry |= {"silhouette": None, "noise_share": None, "disagreement": None, "repaired": 0}
            entry["warnings"] = ["no certain image in this class"]
            out.per_class.append(entry)
            continue
        result = found[label]
        local, kinds = compact(result["raw"])
        out.pseudo[own] = local + out.num_labels
        for name in ("raw", "hard", "strength", "embedding"):
            getattr(out, name)[own] = result[name]
        if len(new_rows[label]):
            place = {int(raw): int(out.num_labels + at) for at, raw in enumerate(np.unique(result["raw"]))}
            out.new_pseudo[new_rows[label]] = [place[int(raw)] for raw in result["new_raw"]]
        hard, silhouette = result["hard"], float(result["silhouette"][0])
        placed = hard >= 0
        entry |= {
            "clusters": kinds,
            "silhouette": silhouette if np.isfinite(silhouette) else None,
            "noise_share": float(np.mean(~placed)),
            "disagreement": float(np.mean(result["raw"][placed] != hard[placed])) if placed.any() else None,
            "repaired": int(result["repaired"][0]),
            "warnings": [str(text) for text in result["warnings"]],
        }
        out.per_class.append(entry)
        parent += [label] * kinds
        out.num_labels += kinds
    out.parent = np.array(parent, np.int64)
    return out
