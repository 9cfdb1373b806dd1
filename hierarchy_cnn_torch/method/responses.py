"""Responses of a network's channels to images: pooling, sums by class, strongest images, class correlation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from hierarchy_cnn_torch.method.similarity import correlation

AGGREGATES = ("mean", "max", "q95")
TOP_IMAGES = 25  # strongest images of a channel that are kept


def aggregate(maps: Any, how: str = "mean") -> Any:
    """Turns post-ReLU maps into one number for each image and channel.

    Args:
      maps: torch float [B, M, H, W], or [B, M] (returned as it is).
      how: mean (the authors' follow-up), max or q95; the paper's own choice could not be read.
    Returns:
      torch float32 [B, M].
    Raises:
      ValueError: another word.
    """
    if maps.dim() == 2:
        return maps.float()
    flat = maps.float().flatten(2)  # DEVIATION HCN-D09: mean by default; the paper's own choice is not known for sure
    if how == "mean":
        return flat.mean(2)
    if how == "max":
        return flat.amax(2)
    if how == "q95":
        return flat.quantile(0.95, 2)
    raise ValueError(f"response {how!r}: one of {', '.join(AGGREGATES)}")


@contextmanager
def tapped(layers: Mapping[str, Any], pool: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """Hooks the named layers while the context lasts; `pool` acts inside the hook, so no full map outlives its layer.

    Args:
      layers: name -> module.
      pool: turns an output into what is kept of it.
    Yields:
      name -> pooled output of the last forward pass, on the CPU. Hooks are removed whatever happens.
    """
    caught: dict[str, Any] = {}
    handles = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            caught[name] = pool(output).cpu()

        return hook

    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook_of(name)))
        yield caught
    finally:
        for handle in handles:
            handle.remove()


class ClassSums:
    """Counts of the images, and sums of the responses, of each class: int64 [K] and float64 [K, M]."""

    def __init__(self, num_classes: int, channels: int):
        self.count = np.zeros(num_classes, np.int64)
        self.sum = np.zeros((num_classes, channels))

    def update(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch.

        Args:
          values: float [B, M].
          labels: int [B].
        """
        values = np.asarray(values, np.float64)
        self.count += np.bincount(labels, minlength=len(self.count))
        for label in np.unique(labels):
            self.sum[label] += values[labels == label].sum(0)

    def mean(self) -> np.ndarray:
        """Returns the class profiles R, float64 [K, M]; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.sum / self.count[:, None]


class TopImages:
    """The images that excite each channel most, kept by a running top 25; int64 [25, M], strongest first."""

    def __init__(self, channels: int):
        self.values = np.full((0, channels), 0, np.float32)
        self.images = np.zeros((0, channels), np.int64)

    def update(self, values: np.ndarray, images: np.ndarray) -> None:
        """Adds a batch.

        Args:
          values: float [B, M].
          images: int [B] ids.
        """
        both = np.concatenate([self.values, np.asarray(values, np.float32)])
        ids = np.concatenate([self.images, np.broadcast_to(images[:, None], values.shape)])
        order = np.lexsort((ids, -both), axis=0)[:TOP_IMAGES]
        self.values = np.take_along_axis(both, order, 0)
        self.images = np.take_along_axis(ids, order, 0)


def class_correlation(profiles: np.ndarray) -> np.ndarray:
    """Returns the correlation of the classes' profiles, channels standardised over classes first; float64 [K, K].

    Args:
      profiles: float [K, M]; a class with a NaN (one without images) correlates 0 with all others.
    """
    known = ~np.isnan(profiles).any(1)
    centred = np.where(known[:, None], profiles - profiles[known].mean(0), 0.0)
    sd = centred[known].std(0)
    return correlation(np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-12))
