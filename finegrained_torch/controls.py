"""The cluster stage: the method's clustering, the clusterings it is held against, and the scores of all of them."""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch import maps, scores
from finegrained_torch.cluster_files import save_clustering, write_labels
from finegrained_torch.cluster_jobs import open_pool
from finegrained_torch.clustering import Clustering, cluster_classes, compact, visiting_order
from finegrained_torch.figures import Images, cluster_pictures
from finegrained_torch.membership import Settings
from reproduction.runtime.run_folder import UserError, write_bytes, write_json

NAMES = ("random", "kmeans", "pixels", "nofilter", "noumap")
TITLES = {
    "found": "UMAP + HDBSCAN (the method)",
    "random": "random sub-labels, same cluster sizes",
    "kmeans": "k-means in the same 4-d space, same k",
    "pixels": "k-means on pixels, same k",
    "nofilter": "no uncertainty filter (threshold 100)",
    "noumap": "HDBSCAN on the features, no UMAP",
}
_DECIDING = ("umap_neighbors", "umap_min_dist", "umap_components", "min_cluster_size")
_RANDOM, _TRIES = 0x52414E44, 10  # a word of the seed; starts of k-means


def random_labels(pseudo: np.ndarray, coarse: np.ndarray, seed: int) -> np.ndarray:
    """The found cluster sizes, dealt out at random within each coarse class.

    Args:
      pseudo: int64 [N], -1 where an image has none. coarse: int64 [N]. seed: >= 0.
    Returns:
      int64 [N], a permutation of `pseudo` within each class that leaves -1 where it is; a function of (seed, class).
    Source: section 7.3.
    """
    out = pseudo.copy()
    for label in np.unique(coarse).tolist():
        own = np.flatnonzero((coarse == label) & (pseudo >= 0))
        out[own] = pseudo[own][np.random.default_rng([seed, _RANDOM, label]).permutation(len(own))]
    return out


def kmeans_labels(points: np.ndarray, pseudo: np.ndarray, coarse: np.ndarray, seed: int) -> np.ndarray:
    """k-means within each coarse class, with as many clusters as were found there.

    Args:
      points: float [N, ...], anything for images without a label. pseudo: int64 [N]. coarse: int64 [N].
    Returns:
      int64 [N], numbered over all classes like `pseudo`, -1 where that is.
    Source: section 7.3; scikit-learn, 10 starts.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    out = np.full(len(pseudo), -1, np.int64)
    offset = 0
    for label in visiting_order(coarse):
        own = np.flatnonzero((coarse == label) & (pseudo >= 0))
        if not len(own):
            continue
        k = len(np.unique(pseudo[own]))
        flat = np.ascontiguousarray(points[own], np.float32).reshape(len(own), -1)
        with threadpool_limits(limits=2), warnings.catch_warnings():  # more threads add up in another order
            warnings.simplefilter("ignore")  # fewer distinct points than clusters
            found = KMeans(n_clusters=k, n_init=_TRIES, random_state=seed).fit_predict(flat)
        local, kinds = compact(found.astype(np.int64))
        out[own] = local + offset
        offset += kinds
    return out


def control_labels(
    names: Sequence[str],
    features: np.ndarray,
    coarse: np.ndarray,
    certain: np.ndarray,
    found: Clustering,
    images: np.ndarray,
    settings: Mapping[str, Any],
    *,
    workers: int | None = None,
    progress: bool = True,
    keep: Path | None = None,
    pool: ProcessPoolExecutor | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Clustering]]:
    """Sub-labels of the controls of section 7.3.

    Args:
      names: some of NAMES.
      features: float32 [N, D]. coarse: int64 [N]. certain: bool [N]. found: the method's clustering.
      images: uint8 [N, H, W, C].
      settings: keyword arguments of `cluster_classes` that decide the clusters.
    Returns:
      (name -> int64 [N], -1 where an image has none; the clusterings behind nofilter and noumap).
    Raises:
      UserError: a name that is not one of NAMES.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise UserError(f"control {unknown[0]!r} is not one of {', '.join(NAMES)}")
    labels: dict[str, np.ndarray] = {}
    made: dict[str, Clustering] = {}
    seed = int(settings["seed"])
    for name in (name for name in NAMES if name in names):
        if name == "random":
            labels[name] = random_labels(found.pseudo, coarse, seed)
        elif name == "kmeans":
            labels[name] = kmeans_labels(found.embedding, found.pseudo, coarse, seed)
        elif name == "pixels":
            labels[name] = kmeans_labels(images, found.pseudo, coarse, seed)
        else:
            everyone = np.ones(len(coarse), bool)
            use = everyone if name == "nofilter" else certain
            changed = dict(settings) | ({"reducer": "none"} if name == "noumap" else {})
            made[name] = cluster_classes(
                features, coarse, use, **changed, workers=workers, progress=progress, pool=pool,
                keep=None if keep is None else keep / name,
            )  # fmt: skip
            labels[name] = made[name].pseudo
    return labels, made


def cluster_stage(
    folder: Path,
    dataset: str,
    features: np.ndarray,
    coarse: np.ndarray,
    certain: np.ndarray,
    *,
    settings: Mapping[str, Any],
    seed: int,
    fine: np.ndarray | None = None,
    images: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    fine_names: Sequence[str] | None = None,
    record_folder: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any], list[dict[str, str]]]:
    """Clusters every coarse class, and the controls where asked for; writes all files; scores all of it.

    Args:
      folder: the --out_dir; dataset: name in the folders below it.
      features: float32 [N, D], best memory-mapped. coarse: int64 [N]. certain: bool [N].
      settings: the resolved flags: umap_neighbors, umap_min_dist, umap_components, min_cluster_size, and optionally
        controls (some of NAMES) and cluster_workers (0: as many as cores and memory allow).
      seed: random_state of UMAP, of k-means and of the random labels.
      fine: int64 [N] known subclasses, for the scores only; None where a data set has none.
      images: uint8 [N, H, W, C], needed for the control `pixels`.
      class_names, fine_names: of coarse classes and subclasses.
      record_folder: where the stage's record will lie; scores and pictures go there. None: `folder/sub_<dataset>`,
        and no pictures.
    Returns:
      (metrics, details, artefacts with paths relative to the record's folder) for the stage's record.
    Raises:
      UserError: as `cluster_classes`; a control that needs images without them.
    Source: sections 1.5, 7.2 to 7.4.
    """
    controls = list(settings.get("controls") or ())
    if "pixels" in controls and images is None:
        raise UserError("control pixels: needs the training images")
    workers = int(settings.get("cluster_workers") or 0) or None
    chosen = {name.removeprefix("umap_"): settings[name] for name in _DECIDING} | {"seed": seed}
    digest = hashlib.sha256(np.ascontiguousarray(features, np.float32).tobytes()).hexdigest()
    below = folder / f"sub_{dataset}"
    keep = below / "finished_classes"
    counts = np.unique(coarse, return_counts=True)[1].tolist()
    with open_pool(counts, features.shape[1], workers) as pool:
        found = cluster_classes(
            features, coarse, certain, **chosen, workers=workers, progress=progress, pool=pool, keep=keep / "found"
        )
        labels, made = control_labels(
            controls, features, coarse, certain, found, images if images is not None else features, chosen,
            workers=workers, progress=progress, keep=keep, pool=pool,
        )  # fmt: skip
        drawn = {}
        if record_folder is not None and images is not None:
            if progress:
                print(f"cluster: 2-D maps of {len(features):,} images, for the pictures", file=sys.stderr, flush=True)
            drawn = maps.make_maps(below / "maps.npz", features, coarse, Settings(**chosen), pool)
    save_clustering(
        folder, dataset, found, certain, coarse, settings=chosen, input_hash=digest, class_names=class_names, fine=fine
    )
    for name, sub in labels.items():
        write_labels(below / "controls" / name, sub, sub >= 0, coarse)
    if "nofilter" in made:
        _write_all_images(below / "controls" / "nofilter", made["nofilter"])
    metrics, details = _facts(found, labels, made, coarse, certain, fine)
    details["class_names"] = list(class_names)
    beside = below if record_folder is None else record_folder
    write_json(beside / "scores.json", {"metrics": metrics, **details})
    artefacts: list[dict[str, str]] = []
    if record_folder is not None and images is not None:
        names = class_names or [str(label) for label in range(int(coarse.max()) + 1)]
        kinds = fine_names or [str(kind) for kind in range(0 if fine is None else int(fine.max()) + 1)]
        data = Images(images, coarse, fine, names, kinds)
        for figure in cluster_pictures(record_folder, vars(found), data, drawn):
            artefacts.append({"kind": "image", "path": figure.file, "title": figure.caption})
    artefacts.append({"kind": "json", "path": "scores.json", "title": "Scores of clusters and controls"})
    if fine is not None:
        text = scores.contingency_csv(found.pseudo, fine, found.parent.tolist(), fine_names)
        write_bytes(beside / "contingency.csv", text.encode())
        artefacts.append({"kind": "csv", "path": "contingency.csv", "title": "Clusters against known subclasses"})
    shutil.rmtree(keep, ignore_errors=True)
    if progress:
        _print(found, details, class_names)
    return metrics, details, artefacts


def _write_all_images(folder: Path, clustering: Clustering) -> None:
    """Noise and membership of all images, for claim C4."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, hard=clustering.hard, strength=clustering.strength)
    write_bytes(folder / "membership.npz", buffer.getvalue())


def _facts(
    found: Clustering,
    labels: Mapping[str, np.ndarray],
    made: Mapping[str, Clustering],
    coarse: np.ndarray,
    certain: np.ndarray,
    fine: np.ndarray | None,
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any]]:
    """Metrics (found: `ari`, control: `ari_kmeans`, ...; both means over classes) and details of the record."""
    values: dict[str, float] = {"num_sub": float(found.num_labels), "certain_images": float(certain.sum())}
    values |= scores.structure(found.per_class)
    scored: dict[str, Any] = {}
    if fine is not None:
        for name, sub in {"found": found.pseudo, **labels}.items():
            # all on the certain images, so that they differ in nothing but the labels
            scored[name] = scores.score(np.where(certain, sub, -1), fine, coarse)
            suffix = "" if name == "found" else f"_{name}"
            for score, value in scored[name]["class_mean"].items():
                values[score + suffix] = value
            for score, value in scored[name]["weighted"].items():
                values[f"{score}_weighted{suffix}"] = value
    if "nofilter" in made:
        everyone = made["nofilter"]
        values |= scores.in_between(everyone.hard, everyone.strength, coarse, certain)
    details = {
        "per_class": found.per_class,
        "scores": scored,
        "controls": {name: {"num_sub": len(np.unique(sub[sub >= 0]))} for name, sub in labels.items()},
        "controls_per_class": {name: clustering.per_class for name, clustering in made.items()},
    }
    return {name: {"last": value} for name, value in values.items()}, details


def _print(found: Clustering, details: Mapping[str, Any], class_names: Sequence[str]) -> None:
    for entry in found.per_class:
        name = class_names[entry["class"]] if class_names else entry["class"]
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
    print(f"cluster: {found.num_labels} pseudo-labels", flush=True)
