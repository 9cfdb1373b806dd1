"""Plots of a clustering, as artefacts of the cluster stage: which can be drawn, and under which name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finegrained_torch import maps, pictures, scores


@dataclass(frozen=True)
class Figure:
    """A plot: its file in the folder of the stage's record, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Images:
    """Training images in file order: uint8 [N, H, W, C], coarse and fine labels int64 [N], and their names."""

    images: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray | None
    coarse_names: Sequence[str]
    fine_names: Sequence[str]


def cluster_pictures(
    folder: Path, held: Mapping[str, np.ndarray], data: Images, made: Mapping[int, np.ndarray]
) -> list[Figure]:
    """Maps, example grids and the contingency heat map of a clustering.

    Args:
      folder: where the files go.
      held: pseudo, strength [N] and parent [S] of a Clustering.
      data: the training images.
      made: of `maps.make_maps`; empty leaves the maps out.
    """
    pseudo, certain, out = held["pseudo"], held["pseudo"] >= 0, []
    classes = np.unique(data.coarse).tolist()
    for label in classes if made else ():
        own, name = np.flatnonzero(data.coarse == label), data.coarse_names[label]
        fine = None if data.fine is None else data.fine[own]
        file = f"map_class{label}.png"
        pictures.class_map(folder / file, made[label], pseudo[own], certain[own], fine, name, data.fine_names)
        panels = "clusters, uncertain images" + ("" if fine is None else ", true subclasses")
        out.append(Figure(file, f"2-D UMAP of {name}: {panels}"))
    if made:
        rows = maps.joint_rows(len(pseudo))
        pictures.joint_map(
            folder / "map_joint.png", made[maps.JOINT], data.coarse[rows], certain[rows], data.coarse_names
        )
        out.append(Figure("map_joint.png", "2-D UMAP of all classes together"))
    for label in classes:
        own = np.flatnonzero(data.coarse == label)
        if not certain[own].any():
            continue
        file = f"clusters_class{label}.png"
        fine = None if data.fine is None else data.fine[own]
        pictures.cluster_grid(
            folder / file, data.images[own], pseudo[own], held["strength"][own], fine, data.coarse_names[label],
            data.fine_names,
        )  # fmt: skip
        out.append(Figure(file, f"{data.coarse_names[label]}: examples of each cluster"))
    if data.fine is not None and certain.any():
        table, clusters, kinds = scores.contingency(pseudo[certain], data.fine[certain])
        parent = [int(held["parent"][cluster]) for cluster in clusters]
        names = [data.fine_names[kind] for kind in kinds.tolist()]
        pictures.contingency(folder / "contingency.png", table, clusters.tolist(), parent, names)
        out.append(Figure("contingency.png", "Clusters against true subclasses, certain training images"))
    return out
