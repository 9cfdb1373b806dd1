"""Files of a clustering: the release's three CSV files, a TensorBoard projector of each class, arrays and maps as npz.

The CSV files hold one number per line, one line per training image in file order, without a header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch.method.cluster_one_class import Settings
from finegrained_torch.method.clustering import ClassRows, Clustering
from finegrained_torch.method.umap_maps import JOINT, joint_rows, map_settings
from finegrained_torch.training.cluster_jobs import Job, map_one, on_disk, read_stored, run_jobs
from finegrained_torch.training.setting import write_column
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.metrics_log import MetricsLog
from reproduction.runtime.record import versions_of
from reproduction.runtime.run_folder import write_bytes, write_json

ARRAYS = ("pseudo", "raw", "hard", "strength", "embedding", "parent")


def write_labels(folder: Path, pseudo: np.ndarray, certain: np.ndarray, coarse: np.ndarray) -> None:
    """Writes pseudo.csv (-1 for uncertain images), mask.csv (0 certain, 1 uncertain), new_super.csv (coarse label).

    Args:
      folder: where the files go; it is created.
      pseudo: int64 [N].
      certain: bool [N].
      coarse: int64 [N].
    Source: authors' pipeline.py (names and contents). Deviation: FGL-D08.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_column(folder / "mask.csv", 1 - certain.astype(np.int64))
    write_column(folder / "new_super.csv", coarse)
    write_column(folder / "pseudo.csv", pseudo)


def save_clustering(
    folder: Path,
    dataset: str,
    clustering: Clustering,
    certain: np.ndarray,
    coarse: np.ndarray,
    *,
    settings: Mapping[str, Any],
    input_hash: str = "",
    class_names: Sequence[str] = (),
    fine: np.ndarray | None = None,
) -> None:
    """Writes everything about a clustering below `folder`.

    Args:
      folder: the --out_dir.
      dataset: name in the names of the folders.
      clustering: of all classes.
      certain: bool [N].
      coarse: int64 [N].
      settings: of the clustering, JSON values.
      input_hash: of the file of the features.
      class_names: of the coarse classes.
      fine: int64 [N] known subclasses, for the projector's captions.
    Source: authors' pipeline.py. The silhouette is a scalar, not a folder's name (FGL-D25).
    """
    below = folder / f"sub_{dataset}"
    write_labels(below, clustering.pseudo, certain, coarse)
    write_npz(below / "clustering.npz", {name: getattr(clustering, name) for name in ARRAYS})
    for entry in clustering.per_class:
        if entry["clusters"]:
            _projector(folder / "run" / f"sub_{dataset}" / str(entry["class"]), clustering, coarse, entry, fine)
    facts = {
        "maker": "finegrained_torch, stage cluster",
        "settings": dict(settings),
        "features_sha256": input_hash,
        "versions": versions_of("umap-learn", "hdbscan", "scikit-learn", "numpy", "numba"),
        "num_labels": clustering.num_labels,
        "parent": clustering.parent.tolist(),
        "class_names": list(class_names),
        "per_class": clustering.per_class,
    }
    write_json(below / "clusters.json", facts)


def _projector(
    folder: Path, clustering: Clustering, coarse: np.ndarray, entry: Mapping[str, Any], fine: np.ndarray | None
) -> None:
    """Writes TensorBoard's embedding projector for one class, and its silhouette as a scalar."""
    folder.mkdir(parents=True, exist_ok=True)
    members = np.flatnonzero((coarse == entry["class"]) & (clustering.pseudo >= 0))
    tensors = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in clustering.embedding[members])
    rows = ["\t".join(["image", "pseudo", "membership"] + ([] if fine is None else ["subclass"]))]
    for at in members.tolist():
        cells = [str(at), str(clustering.pseudo[at]), f"{clustering.strength[at]:.4f}"]
        rows.append("\t".join(cells + ([] if fine is None else [str(fine[at])])))
    write_bytes(folder / "tensors.tsv", (tensors + "\n").encode())
    write_bytes(folder / "metadata.tsv", ("\n".join(rows) + "\n").encode())
    config = (
        'embeddings {\n  tensor_name: "embedding"\n  tensor_path: "tensors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'
    )
    write_bytes(folder / "projector_config.pbtxt", config.encode())
    if entry["silhouette"] is not None:  # DEVIATION FGL-D25: a scalar, not a part of a folder's name
        log = MetricsLog(folder, subfolder="events")
        log.write(0, {"silhouette": entry["silhouette"]})
        log.close()


def make_maps(
    file: Path, features: np.ndarray, coarse: np.ndarray, settings: Settings, pool: ProcessPoolExecutor | None = None
) -> dict[int, np.ndarray]:
    """Computes all 2-D maps, or reads them from `file` if it holds those of the same features and settings.

    Args:
      file: where the maps are stored (npz).
      features: float32 [N, D].
      coarse: int64 [N].
      settings: of the clustering.
      pool: of `cluster_jobs.open_pool`; None: in this process.
    Returns:
      coarse class -> float32 [n, 2], its images in file order; JOINT -> the same of `joint_rows`.
    """
    settings = map_settings(settings)
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(coarse.tobytes() + np.ascontiguousarray(features, np.float32).tobytes())
    key = digest.hexdigest()
    stored = read_stored(file, key)
    if stored is not None:
        return {int(name): points for name, points in stored.items()}
    rows = {JOINT: joint_rows(len(coarse))} | {c: np.flatnonzero(coarse == c) for c in np.unique(coarse).tolist()}
    with on_disk(features) as path:
        jobs = [Job(ClassRows(label, members), path, settings) for label, members in rows.items()]
        maps = {job.rows.label: points for job, points in run_jobs(map_one, jobs, pool)}
    write_npz(file, {"key": np.array(key), **{str(label): maps[label] for label in rows}}, compress=False)
    return maps
