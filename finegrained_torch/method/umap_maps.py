"""2-D UMAP maps for the plots: one of each coarse class and one of all images together. Nothing else uses them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finegrained_torch.method.cluster_one_class import FEW_POINTS, Settings, reduce

JOINT = -1  # the map of all classes
JOINT_IMAGES = 20_000  # more would take as much memory as the clustering of all classes, and show no more


def joint_rows(count: int) -> np.ndarray:
    """Chooses the images of the joint map: all, or JOINT_IMAGES of them at even distances in file order; int64."""
    return np.unique(np.linspace(0, count - 1, min(count, JOINT_IMAGES)).round().astype(np.int64))


def map_settings(settings: Settings) -> Settings:
    """Settings of the maps: those of the clustering, in two dimensions."""
    return replace(settings, components=2, reducer="umap")


def map_points(points: np.ndarray, settings: Settings) -> np.ndarray:
    """Lays points out in two dimensions.

    Args:
      points: float [n, D].
      settings: of `map_settings`.
    Returns:
      float32 [n, 2]; zeros if there is too little to lay out.
    """
    points = np.ascontiguousarray(points, np.float32)
    if len(points) < FEW_POINTS or (points == points[0]).all():
        return np.zeros((len(points), 2), np.float32)
    return reduce(points, settings)[0]
