"""A map of an embedding as one small SVG: which classes a run's features keep apart, without a clustering library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from reproduction.page.svg import INK, blank_axes, inline
from reproduction.runtime.arrays import read_npz
from reproduction.runtime.run_folder import UserError

SIDE, MARGIN = 332, 14
MAX_POINTS = 2000
MAX_NAMES = 40  # beyond it names hide the points


def class_plane(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Projects on the plane in which the classes' means differ most.

    A linear map: distances shrink and never grow, so classes that lie apart here lie apart.

    Args:
      features: float [N, D], finite, D at least 2.
      labels: int [N], at least two classes.
    Returns:
      (float64 [N, 2], share of the features' variance that lies in the plane, 0 to 1).
    Source: ours; principal components of the class means.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    means = np.stack([centred[labels == label].mean(axis=0) for label in np.unique(labels)])
    means -= means.mean(axis=0)
    first = _direction(means)
    across = means - np.outer(means @ first, first)
    if np.abs(across).max() <= 1e-9 * np.abs(means).max():  # two classes span a line: across it, what is left of all
        across = centred - np.outer(centred @ first, first)
    axes = np.stack([first, _direction(across)])
    flat = centred @ axes.T
    total = float((centred**2).sum())
    share = float((flat**2).sum()) / total if total else 0.0
    return flat, share


def _direction(rows: np.ndarray) -> np.ndarray:
    """The first right singular vector [D], its largest entry positive: either sign is right, take the same one."""
    axis = np.linalg.svd(rows, full_matrices=False)[2][0]
    return axis if axis[np.abs(axis).argmax()] >= 0 else -axis


def draw(points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Markup:
    """Draws a dot for each image, coloured by class, and each class's name at its median, as inline SVG.

    Args:
      points: float [N, 2].
      labels: int [N], the class of each point.
      names: of the classes by label; a label without one shows its number.
    """
    import colorsys

    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Dots

    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    height = max(1, round(SIDE * float(high[1] - low[1]) / span)) + 2 * MARGIN
    figure, axes = blank_axes(SIDE + 2 * MARGIN, height, MARGIN, MARGIN, MARGIN, MARGIN)
    axes.set(
        xlim=(low[0], low[0] + span), ylim=(low[1], low[1] + span * (height - 2 * MARGIN) / SIDE), xticks=[], yticks=[]
    )
    classes = np.unique(labels)
    for place, label in enumerate(classes):
        dots = np.repeat(points[labels == label], 2, axis=0)  # lines of no length with round ends
        path = Dots(dots, np.tile([Dots.MOVETO, Dots.LINETO], len(dots) // 2))
        path.should_simplify = False
        colour = colorsys.hls_to_rgb(place / len(classes), 0.52, 0.62)
        axes.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=3, capstyle="round", clip_on=False))
    for label in classes if len(classes) <= MAX_NAMES else ():
        x, y = np.median(points[labels == label], axis=0)
        name = names[label] if 0 <= label < len(names) else str(label)
        axes.text(x, y, name[:14], ha="center", va="center", color=INK)
    return inline(figure, "map", "map of the embedding")


def embedding_map(path: Path, names: Sequence[str] = ()) -> tuple[Markup, str] | None:
    """Returns map and caption of an embeddings.npz (`emb` [N, D], `label` [N]); None if the file has other content."""
    try:
        arrays = read_npz(path, ("emb", "label"))
    except UserError:
        return None
    features, labels = arrays["emb"], arrays["label"]
    if features.dtype.kind + labels.dtype.kind != "fi" or features.ndim != 2 or labels.shape != features.shape[:1]:
        return None
    if features.shape[1] < 2 or len(np.unique(labels)) < 2 or not np.isfinite(features).all():
        return None
    points, share = class_plane(features, labels)
    few = np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).astype(int)  # evenly over the list
    caption = f"Map of the embedding: the plane in which the class means differ most ({share:.0%} of the variance)"
    return draw(points[few], labels[few], names), caption
