"""From a run folder to its pictures: which of section 7.5 can be drawn, with what, and under which name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finegrained_torch import gather, maps, pictures, scores, tables
from finegrained_torch.cluster_files import load_clustering
from finegrained_torch.gather import SeedFolder
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError, shown


@dataclass(frozen=True)
class Figure:
    """A picture of the report: file below figures/, and its caption."""

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


def training_images(config: Mapping[str, Any]) -> Images:
    """The training images as the stages saw them."""
    from finegrained_torch import data

    loaded = data.load(config)
    known = len(loaded.fine_names) > 0
    return Images(
        loaded.train.images,
        loaded.train.coarse,
        loaded.train.fine if known else None,
        loaded.coarse_names,
        loaded.fine_names,
    )


def draw(run: SeedFolder, data: Images) -> list[Figure]:
    """Draws every picture for which the run has what it takes, into figures/.

    Args:
      run: one seed.
      data: its training images.
    Returns:
      The pictures, in the order of section 7.5.
    """
    out: list[Figure] = []
    if "cluster" in run.records:
        held = load_clustering(run.labels / "clustering.npz")
        if len(held["pseudo"]) != len(data.coarse):
            raise UserError(
                f"{shown(run.labels)}: {len(held['pseudo'])} pseudo-labels for {len(data.coarse)} training images; "
                "run --stage cluster --overwrite"
            )
        out += cluster_pictures(run.folder / "figures", held, data, maps.read_maps(run.labels / "maps.npz"))
    if (run.labels / "uncertainty.npz").exists():
        out += _uncertainty(run, data)
    return out + _trainings(run, data.coarse_names)


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


def _uncertainty(run: SeedFolder, data: Images) -> list[Figure]:
    folder = run.folder / "figures"
    names = ("uncertainty", "mean_prediction", "certain")
    held = read_npz(run.labels / "uncertainty.npz", names, "run --stage uncertainty --overwrite")
    values, mean, certain = (held[name] for name in names)
    names = data.coarse_names
    pictures.certainty_examples(folder / "certainty.png", data.images, values, data.coarse, mean, names)
    pictures.uncertainty_histogram(folder / "uncertainty.png", values, data.coarse, certain, names)
    return [
        Figure("certainty.png", "Most and least certain training images of each class"),
        Figure("uncertainty.png", "Uncertainty of each class, the threshold, and the share of wrong mean predictions"),
    ]


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [C, C] counts, rows are true classes."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def _trainings(run: SeedFolder, names: Sequence[str]) -> list[Figure]:
    folder, out = run.folder / "figures", []
    order = tables.ordered(list(run.rows))
    wanted = [name for name in (tables.BASE, "ft", "ft-deep", "ft-keep", "ft-true") if name in run.rows][:3]
    matrices = []
    for name in wanted:
        found = gather.predictions(run.rows[name])
        matrices.append((tables.title(name), confusion(found["labels"], found["predicted"], len(names))))
    if matrices:
        pictures.confusions(folder / "confusion.png", matrices, names)
        out.append(Figure("confusion.png", "Test confusion: " + ", ".join(title for title, _ in matrices)))
    trainings = [(tables.title(name), run.rows[name]) for name in order]
    for name in tables.ordered(list(run.subs)):
        trainings.append(("sub classifier of " + tables.title(name).removeprefix("control: "), run.subs[name]))
    rates = [(title, curve) for title, below in trainings if (curve := gather.lr_curve(below))]
    if rates:
        pictures.lr_curves(folder / "lr_find.png", rates)
        out.append(Figure("lr_find.png", "Learning-rate range tests"))
    curves = [(title, lines) for title, below in trainings if (lines := gather.curve(below))]
    if curves:
        pictures.training_curves(folder / "training.png", curves)
        out.append(Figure("training.png", "Training and validation by epoch"))
    return out
