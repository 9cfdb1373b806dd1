"""Plots, drawn from arrays and written as PNG; matplotlib is imported when the first is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained_torch.method import agreement
from finegrained_torch.method.umap_maps import JOINT, joint_rows
from reproduction.runtime.figures import LABELLED, RED, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from finegrained_torch.data.images import Data
    from finegrained_torch.method.clustering import Clustering

_CERTAIN, _UNCERTAIN, _GREY = "#c9a0b4", "#0797a8", "#b8bec6"
_TEN = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_EXAMPLES = 10
_ROWS = 24  # clusters of one grid


def colour(index: int) -> str:
    """Colour of the cluster with this place within its class; ten, then again."""
    return _TEN[index % len(_TEN)]


def _scatter(axis: Axes, points: np.ndarray, colours: Any, size: float) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=size, c=colours, linewidths=0)
    axis.set(xticks=[], yticks=[])
    axis.set_aspect("equal", "datalim")


def _dots(count: int) -> float:
    """Marker area that neither hides nor loses `count` points."""
    return float(np.clip(16000 / max(count, 1), 0.6, 14))


def _legend(axis: Axes, entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", color=shade, label=text) for text, shade in entries]
    axis.legend(handles=marks, fontsize=7, loc="best", framealpha=0.8)


def _by_certainty(axis: Axes, points: np.ndarray, certain: np.ndarray, size: float) -> None:
    order = np.argsort(~certain, kind="stable")  # the few uncertain ones on top
    _scatter(axis, points[order], [_CERTAIN if c else _UNCERTAIN for c in certain[order]], size)
    _legend(axis, [("certain", _CERTAIN), ("uncertain", _UNCERTAIN)])


def _grid(count: int, most: int) -> tuple[Any, list[Any]]:
    """A figure with `count` panels, at most `most` in a row."""
    columns = min(count, most)
    rows = -(-count // columns)
    figure, axes = new_figure(4.2 * columns, 3.0 * rows, rows, columns)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def class_map(
    path: Path,
    points: np.ndarray,
    pseudo: np.ndarray,
    certain: np.ndarray,
    fine: np.ndarray | None,
    name: str,
    fine_names: Sequence[str],
) -> None:
    """Draws the 2-D map of one coarse class by cluster, by certainty and by true subclass.

    Args:
      points: float [n, 2].
      pseudo: int64 [n], -1 for uncertain images.
      certain: bool [n].
      fine: int64 [n]; None leaves out the third panel.
      name: of the class.
    """
    panels = 2 if fine is None else 3
    figure, axes = new_figure(5 * panels, 5.2, 1, panels)
    size = _dots(len(points))
    labels = np.unique(pseudo[pseudo >= 0]).tolist()
    place = {label: at for at, label in enumerate(labels)}
    shades = [_GREY if label < 0 else colour(place[label]) for label in pseudo.tolist()]
    _scatter(axes[0, 0], points, shades, size)
    for label in labels:
        x, y = np.median(points[pseudo == label], axis=0)
        box = {"facecolor": "white", "edgecolor": colour(place[label]), "boxstyle": "round,pad=0.2", "alpha": 0.85}
        axes[0, 0].text(x, y, str(label), fontsize=9, ha="center", va="center", bbox=box)
    axes[0, 0].set_title(f"{len(labels)} clusters (grey: uncertain images)", fontsize=10)
    _by_certainty(axes[0, 1], points, certain, size)
    axes[0, 1].set_title(f"{int((~certain).sum()):,} uncertain of {len(certain):,}", fontsize=10)
    if fine is not None:
        kinds = np.unique(fine).tolist()
        at = {kind: number for number, kind in enumerate(kinds)}
        _scatter(axes[0, 2], points, [colour(at[kind]) for kind in fine.tolist()], size)
        if len(kinds) <= LABELLED:
            _legend(axes[0, 2], [(fine_names[kind], colour(at[kind])) for kind in kinds])
        axes[0, 2].set_title("true subclass", fontsize=10)
    figure.suptitle(f"{name}: 2-D UMAP of all its images (a fit of its own, only for looking)", fontsize=11)
    save_figure(figure, path)


def joint_map(path: Path, points: np.ndarray, coarse: np.ndarray, certain: np.ndarray, names: Sequence[str]) -> None:
    """Draws one map of all classes, by coarse class and by certainty (after the authors' CIFAR10.png)."""
    figure, axes = new_figure(11, 5.4, 1, 2)
    size = _dots(len(points))
    _scatter(axes[0, 0], points, [colour(label) for label in coarse.tolist()], size)
    if len(names) <= LABELLED:
        _legend(axes[0, 0], [(text, colour(at)) for at, text in enumerate(names)])
    axes[0, 0].set_title("coarse class", fontsize=10)
    _by_certainty(axes[0, 1], points, certain, size)
    axes[0, 1].set_title("certain and uncertain images", fontsize=10)
    figure.suptitle(
        f"2-D UMAP of {len(points):,} images of all classes (the clustering itself is per class)", fontsize=11
    )
    save_figure(figure, path)


def _image(axis: Axes, image: np.ndarray, frame: str | None = None) -> None:
    axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(frame is not None)
        if frame is not None:
            spine.set_color(frame)
            spine.set_linewidth(2)


def mix(fine: np.ndarray, names: Sequence[str]) -> str:
    """The three commonest true subclasses of a cluster in words: "7 81 %, 9 17 %"."""
    kinds, counts = np.unique(fine[fine >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return "\n".join(f"{names[kinds[at]]} {100 * counts[at] / counts.sum():.0f} %" for at in order)


def cluster_grid(
    path: Path,
    images: np.ndarray,
    pseudo: np.ndarray,
    strength: np.ndarray,
    fine: np.ndarray | None,
    name: str,
    fine_names: Sequence[str],
) -> None:
    """Draws one row per cluster of a class, the strongest members and the first ones in file order.

    Args:
      images: uint8 [n, H, W, C] of one coarse class, in file order.
      pseudo: int64 [n].
      strength: float [n], largest membership.
      fine: int64 [n] or None.
    """
    every = np.unique(pseudo[pseudo >= 0]).tolist()
    labels = every[:_ROWS]
    if not labels:
        return
    columns = 2 * _EXAMPLES + 1
    size = (0.62 * columns + 1.9, 0.74 * len(labels) + 0.9)
    widths = [1] * _EXAMPLES + [0.25] + [1] * _EXAMPLES
    figure, axes = new_figure(*size, len(labels), columns, gridspec_kw={"width_ratios": widths})
    for row, label in enumerate(labels):
        members = np.flatnonzero(pseudo == label)
        best = members[np.argsort(-strength[members], kind="stable")][:_EXAMPLES]
        for side, chosen in ((0, best), (_EXAMPLES + 1, members[:_EXAMPLES])):
            for column in range(_EXAMPLES):
                axis = axes[row, side + column]
                if column < len(chosen):
                    _image(axis, images[chosen[column]], colour(row))
                else:
                    axis.axis("off")
        axes[row, _EXAMPLES].axis("off")
        axes[row, 0].set_ylabel(
            f"{label}\n{len(members):,}", rotation=0, ha="right", va="center", fontsize=9, color=colour(row)
        )
        if fine is not None:
            text = {"va": "center", "fontsize": 7, "annotation_clip": False}
            axes[row, -1].annotate(mix(fine[members], fine_names), (1.15, 0.5), xycoords="axes fraction", **text)
    axes[0, 0].set_title("highest membership", fontsize=9, loc="left")
    axes[0, _EXAMPLES + 1].set_title("first in file order", fontsize=9, loc="left")
    cut = f", the first {_ROWS} of {len(every)}" if len(every) > _ROWS else ""
    right = "" if fine is None else "; right: true subclasses"
    figure.suptitle(f"{name}: clusters (left: id and images{right}){cut}", fontsize=11)
    save_figure(figure, path)


def certainty_examples(
    path: Path,
    images: np.ndarray,
    uncertainty: np.ndarray,
    coarse: np.ndarray,
    mean_prediction: np.ndarray,
    names: Sequence[str],
) -> None:
    """Draws the ten most and ten least certain images of each class with U, label and mean prediction.

    Args:
      images: uint8 [N, H, W, C].
      uncertainty: float [N] in [0, 2].
      coarse: int64 [N].
      mean_prediction: float [N, C], rows sum to 1.
    """
    classes = np.unique(coarse).tolist()[:LABELLED]
    figure, axes = new_figure(1.02 * _EXAMPLES + 1.6, 1.32 * 2 * len(classes) + 0.8, 2 * len(classes), _EXAMPLES)
    for row, label in enumerate(classes):
        members = np.flatnonzero(coarse == label)
        order = members[np.argsort(uncertainty[members], kind="stable")]
        for half, chosen, word in ((0, order[:_EXAMPLES], "most"), (1, order[::-1][:_EXAMPLES], "least")):
            for column in range(_EXAMPLES):
                axis = axes[2 * row + half, column]
                if column >= len(chosen):
                    axis.axis("off")
                    continue
                at = chosen[column]
                guess = int(mean_prediction[at].argmax())
                wrong = guess != label
                _image(axis, images[at], RED if wrong else None)
                short = names[guess] if len(names[guess]) <= 14 else names[guess][:13] + "…"
                text = f"U {uncertainty[at]:.2g}\n{short} {mean_prediction[at, guess]:.2g}"
                axis.set_title(text, fontsize=7, color=RED if wrong else "black", pad=2)
            axes[2 * row + half, 0].set_ylabel(
                f"{names[label]}\n{word} certain", rotation=0, ha="right", va="center", fontsize=8
            )
    figure.suptitle("U and mean prediction over the views (red: wrong, U above 1)", fontsize=11)
    save_figure(figure, path)


def uncertainty_histogram(
    path: Path, uncertainty: np.ndarray, coarse: np.ndarray, certain: np.ndarray, names: Sequence[str]
) -> None:
    """Draws histogram of U of each class, with the threshold and the share above 1."""
    classes = np.unique(coarse).tolist()[:LABELLED]
    bins = np.linspace(0, 2, 41)
    figure, axes = _grid(len(classes), 4)
    for axis, label in zip(axes, classes, strict=True):
        members = coarse == label
        values = uncertainty[members]
        axis.hist(values, bins, color=_CERTAIN)
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        below = uncertainty[members & certain]
        if len(below):
            axis.axvline(below.max(), color=_UNCERTAIN, label=f"threshold, U = {below.max():.2g}")
            axis.legend(fontsize=7)
        axis.set_title(f"{names[label]}: U > 1 (wrong) {100 * np.mean(values > 1):.2f} %", fontsize=9)
        axis.set(xlabel="uncertainty U", ylabel="images")
    save_figure(figure, path)


def confusions(path: Path, matrices: Sequence[tuple[str, np.ndarray]], names: Sequence[str]) -> None:
    """Draws confusion matrices side by side, one colour scale, in percent of the true class.

    Args:
      matrices: (title, int [C, C] counts, rows are true classes).
    """
    figure, axes = new_figure(5.0 * len(matrices), 4.7, 1, len(matrices))
    image = None
    for axis, (title, matrix) in zip(axes[0], matrices, strict=True):
        share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axis.set_title(f"{title}: {100 * np.trace(matrix) / max(matrix.sum(), 1):.2f} %", fontsize=10)
        axis.set(xlabel="predicted", ylabel="true class")
        if len(names) <= LABELLED:
            axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
            axis.set_yticks(range(len(names)), names, fontsize=7)
        if len(names) <= 10:
            for i, j in np.ndindex(*matrix.shape):
                shade = "white" if share[i, j] > 55 else "black"
                axis.text(j, i, f"{matrix[i, j]:,}", ha="center", va="center", fontsize=7, color=shade)
    if image is not None:
        figure.colorbar(image, ax=list(axes[0]), label="% of the true class", shrink=0.8)
    save_figure(figure, path)


def contingency(
    path: Path, table: np.ndarray, clusters: Sequence[int], parent: Sequence[int], fine_names: Sequence[str]
) -> None:
    """Heat map cluster x true subclass, rows in percent of the cluster; lines between coarse classes.

    Args:
      table: int [K, J].
      clusters: id of each row.
      parent: coarse class of each row.
      fine_names: of the columns.
    """
    rows, columns = table.shape
    figure, axes = new_figure(min(0.45 * columns + 2.6, 26), min(0.32 * rows + 1.6, 24))
    axis = axes[0, 0]
    share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    image = axis.imshow(share, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(columns), fine_names, rotation=90 if columns > 12 else 45, ha="right", fontsize=7)
    axis.set_yticks(range(rows), [f"{c} ({int(n):,})" for c, n in zip(clusters, table.sum(1), strict=True)], fontsize=7)
    if rows * columns <= 400:
        for i, j in np.ndindex(rows, columns):
            if table[i, j]:
                shade = "black" if share[i, j] > 55 else "white"
                axis.text(j, i, f"{table[i, j]:,}", ha="center", va="center", fontsize=6.5, color=shade)
    for at in range(1, rows):
        if parent[at] != parent[at - 1]:
            axis.axhline(at - 0.5, color="white", linewidth=2)
    axis.set(xlabel="true subclass", ylabel="cluster (certain images)")
    axis.set_title("Clusters against true subclasses", fontsize=10)
    figure.colorbar(image, ax=axis, label="% of the cluster")
    save_figure(figure, path)


def lr_curves(path: Path, curves: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Draws the curve of each LR range test and the rate taken.

    Args:
      curves: (row, {"lr": [...], "loss": [...], "suggestion": rate or None}).
    """
    figure, axes = _grid(len(curves), 3)
    for axis, (title, curve) in zip(axes, curves, strict=True):
        axis.plot(curve["lr"], curve["loss"], color="black", linewidth=1)
        if curve.get("suggestion"):
            axis.axvline(curve["suggestion"], color=RED, label=f"taken: {curve['suggestion']:.4g}")
            axis.legend(fontsize=7)
        axis.set_xscale("log")
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="learning rate", ylabel="smoothed loss")
    save_figure(figure, path)


def plot_clusters(
    folder: Path, clustering: Clustering, data: Data, maps: Mapping[int, np.ndarray]
) -> list[dict[str, str]]:
    """Draws maps, example grids and the contingency heat map of a clustering.

    Args:
      folder: where the files go.
      clustering: of the training images.
      data: with the training images.
      maps: of `cluster_files.make_maps`.
    Returns:
      The plots that were drawn, as artefacts of the stage's record.
    """
    coarse, fine_of_all = data.train.coarse, data.train.fine if data.num_sub_labels else None
    pseudo, certain, out = clustering.pseudo, clustering.pseudo >= 0, []
    classes = np.unique(coarse).tolist()
    for label in classes:
        members, name = np.flatnonzero(coarse == label), data.coarse_names[label]
        fine = None if fine_of_all is None else fine_of_all[members]
        file = f"map_class{label}.png"
        class_map(folder / file, maps[label], pseudo[members], certain[members], fine, name, data.fine_names)
        panels = "clusters, uncertain images" + ("" if fine is None else ", true subclasses")
        out.append({"kind": "image", "path": file, "title": f"2-D UMAP of {name}: {panels}"})
    rows = joint_rows(len(pseudo))
    joint_map(folder / "map_joint.png", maps[JOINT], coarse[rows], certain[rows], data.coarse_names)
    out.append({"kind": "image", "path": "map_joint.png", "title": "2-D UMAP of all classes together"})
    for label in classes:
        members, name = np.flatnonzero(coarse == label), data.coarse_names[label]
        if not certain[members].any():
            continue
        file, strength = f"clusters_class{label}.png", clustering.strength[members]
        fine = None if fine_of_all is None else fine_of_all[members]
        cluster_grid(folder / file, data.train.images[members], pseudo[members], strength, fine, name, data.fine_names)
        out.append({"kind": "image", "path": file, "title": f"{name}: examples of each cluster"})
    if fine_of_all is not None and certain.any():
        table, clusters, kinds = agreement.contingency(pseudo[certain], fine_of_all[certain])
        parent = [int(clustering.parent[cluster]) for cluster in clusters]
        names = [data.fine_names[kind] for kind in kinds.tolist()]
        contingency(folder / "contingency.png", table, clusters.tolist(), parent, names)
        title = "Clusters against true subclasses, certain training images"
        out.append({"kind": "image", "path": "contingency.png", "title": title})
    return out
