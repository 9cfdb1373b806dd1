"""The cluster stage: the method's clustering, the clusterings it is compared with, and the scores of all of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch.data.images import Data
from finegrained_torch.flags import Config
from finegrained_torch.method import agreement
from finegrained_torch.method.cluster_one_class import Settings
from finegrained_torch.method.clustering import Clustering
from finegrained_torch.method.controls import kmeans_labels, random_labels
from finegrained_torch.plots import plot_clusters
from finegrained_torch.training.cluster_files import make_maps, save_clustering, write_labels
from finegrained_torch.training.cluster_jobs import cluster_in_processes, open_pool
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.run_folder import write_bytes, write_json

TITLES = {
    "found": "UMAP + HDBSCAN (the method)",
    "random": "random sub-labels, same cluster sizes",
    "kmeans": "k-means in the same 4-d space, same k",
    "pixels": "k-means on pixels, same k",
    "nofilter": "no uncertainty filter (threshold 100)",
    "noumap": "HDBSCAN on the features, no UMAP",
}


def control_labels(
    names: Sequence[str],
    features: np.ndarray,
    coarse: np.ndarray,
    certain: np.ndarray,
    clustering: Clustering,
    images: np.ndarray,
    settings: Mapping[str, Any],
    keep: Path,
    pool: ProcessPoolExecutor,
) -> tuple[dict[str, np.ndarray], dict[str, Clustering]]:
    """Computes the sub-labels of the controls.

    Args:
      names: some of random, kmeans, pixels, nofilter and noumap.
      features: float32 [N, D].
      coarse: int64 [N].
      certain: bool [N].
      clustering: the method's.
      images: uint8 [N, H, W, C].
      settings: keyword arguments of `cluster_in_processes` that decide the clusters.
      keep: folder below which the results of finished classes are stored.
      pool: shared processes.
    Returns:
      (name -> int64 [N], -1 for images without a label; the clusterings behind nofilter and noumap).
    """
    labels: dict[str, np.ndarray] = {}
    clusterings: dict[str, Clustering] = {}
    seed = int(settings["seed"])
    for name in names:
        if name == "random":
            labels[name] = random_labels(clustering.pseudo, coarse, seed)
        elif name == "kmeans":
            labels[name] = kmeans_labels(clustering.embedding, clustering.pseudo, coarse, seed)
        elif name == "pixels":
            labels[name] = kmeans_labels(images, clustering.pseudo, coarse, seed)
        else:
            use = np.ones(len(coarse), bool) if name == "nofilter" else certain
            changed = dict(settings) | ({"reducer": "none"} if name == "noumap" else {})
            clusterings[name] = cluster_in_processes(features, coarse, use, **changed, pool=pool, keep=keep / name)
            labels[name] = clusterings[name].pseudo
    return labels, clusterings


def cluster_stage(
    out: Path,
    data: Data,
    features: np.ndarray,
    certain: np.ndarray,
    config: Config,
    record_folder: Path,
    input_hash: str,
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any], list[dict[str, str]]]:
    """Clusters every coarse class, and the controls that are asked for; writes all files; scores all of it.

    Args:
      out: the --out_dir.
      data: with N training images; its known subclasses are used for the scores only.
      features: float32 [N, D], best memory-mapped.
      certain: bool [N].
      config: resolved flags.
      record_folder: folder of the stage's record, for scores and plots.
      input_hash: of the file of the features.
    Returns:
      (metrics, details, artefacts with paths relative to the record's folder) for the stage's record.
    Raises:
      UserError: as `cluster_in_processes`.
    """
    coarse = data.train.coarse
    fine = data.train.fine if data.num_sub_labels else None
    settings: dict[str, Any] = {
        "neighbors": config.umap_neighbors,
        "min_dist": config.umap_min_dist,
        "components": config.umap_components,
        "min_cluster_size": config.min_cluster_size,
        "seed": config.seed,
    }
    below = out / f"sub_{data.name}"
    keep = below / "finished_classes"
    counts = np.unique(coarse, return_counts=True)[1].tolist()
    with open_pool(counts, features.shape[1], config.cluster_workers or None) as pool:
        clustering = cluster_in_processes(features, coarse, certain, **settings, pool=pool, keep=keep / "found")
        labels, clusterings = control_labels(
            config.controls, features, coarse, certain, clustering, data.train.images, settings, keep, pool
        )
        print(f"cluster: 2-D maps of {len(features):,} images, for the plots", file=sys.stderr, flush=True)
        maps = make_maps(below / "maps.npz", features, coarse, Settings(**settings), pool)
    shutil.rmtree(below / "controls", ignore_errors=True)  # labels of an older clustering
    save_clustering(
        out,
        data.name,
        clustering,
        certain,
        coarse,
        settings=settings,
        input_hash=input_hash,
        class_names=data.coarse_names,
        fine=fine,
    )
    for name, sub in labels.items():
        write_labels(below / "controls" / name, sub, sub >= 0, coarse)
    if "nofilter" in clusterings:  # noise and membership of all images: do uncertain ones lie between clusters?
        everyone = clusterings["nofilter"]
        arrays = {"hard": everyone.hard, "strength": everyone.strength}
        write_npz(below / "controls" / "nofilter" / "membership.npz", arrays)
    metrics, details = summarize(clustering, labels, clusterings, coarse, certain, fine)
    details["class_names"] = list(data.coarse_names)
    write_json(record_folder / "scores.json", {"metrics": metrics, **details})
    artefacts = plot_clusters(record_folder, clustering, data, maps)
    artefacts.append({"kind": "json", "path": "scores.json", "title": "Scores of clusters and controls"})
    if fine is not None:
        text = agreement.contingency_csv(clustering.pseudo, fine, clustering.parent.tolist(), data.fine_names)
        write_bytes(record_folder / "contingency.csv", text.encode())
        artefacts.append({"kind": "csv", "path": "contingency.csv", "title": "Clusters against known subclasses"})
    shutil.rmtree(keep, ignore_errors=True)
    _print(clustering, details, data.coarse_names)
    return metrics, details, artefacts


def summarize(
    clustering: Clustering,
    labels: Mapping[str, np.ndarray],
    clusterings: Mapping[str, Clustering],
    coarse: np.ndarray,
    certain: np.ndarray,
    fine: np.ndarray | None,
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any]]:
    """Scores all clusterings for the stage's record.

    Args:
      clustering: the method's.
      labels: control -> int64 [N].
      clusterings: of `control_labels`, by control.
      coarse: int64 [N].
      certain: bool [N].
      fine: int64 [N] known subclasses, or None.
    Returns:
      (metrics, such as `ari` of the method and `ari_kmeans` of a control, all means over classes; details).
    """
    values: dict[str, float] = {"num_sub": float(clustering.num_labels), "certain_images": float(certain.sum())}
    values["clusters_per_class"] = clustering.num_labels / len(clustering.per_class)  # 1: no class was split
    values |= agreement.structure(clustering.per_class)
    scored: dict[str, Any] = {}
    if fine is not None:
        for name, sub in {"found": clustering.pseudo, **labels}.items():
            # all on the certain images, so that they differ in nothing but the labels
            scored[name] = agreement.score(np.where(certain, sub, -1), fine, coarse)
            suffix = "" if name == "found" else f"_{name}"
            for score, value in scored[name]["class_mean"].items():
                values[score + suffix] = value
            for score, value in scored[name]["weighted"].items():
                values[f"{score}_weighted{suffix}"] = value
    if "nofilter" in clusterings:
        everyone = clusterings["nofilter"]
        values |= agreement.in_between(everyone.hard, everyone.strength, coarse, certain)
    details = {
        "per_class": clustering.per_class,
        "scores": scored,
        "controls": {name: {"num_sub": len(np.unique(sub[sub >= 0]))} for name, sub in labels.items()},
        "controls_per_class": {name: of_control.per_class for name, of_control in clusterings.items()},
    }
    return {name: {"last": value} for name, value in values.items()}, details


def _print(clustering: Clustering, details: Mapping[str, Any], class_names: Sequence[str]) -> None:
    for entry in clustering.per_class:
        name = class_names[entry["class"]]
        silhouette = "-" if entry["silhouette"] is None else f"{entry['silhouette']:.2f}"
        noise = "-" if entry["noise_share"] is None else f"{100 * entry['noise_share']:.1f} %"
        print(
            f"cluster: class {name}: {entry['count']:,} certain images, {entry['clusters']} clusters "
            f"(from {entry['first']}), silhouette {silhouette}, noise {noise}"
        )
        for text in entry["warnings"]:
            print(f"cluster: class {name}: {text}")
    for name, scored in details["scores"].items():
        if scored["class_mean"]:
            print(f"cluster: ARI {scored['class_mean']['ari']:.3f} (class mean)  {TITLES[name]}")
    print(f"cluster: {clustering.num_labels} pseudo-labels", flush=True)
