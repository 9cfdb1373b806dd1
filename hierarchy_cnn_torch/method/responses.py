"""Responses of a network's channels to images, streamed: class sums in RAM, the image-by-channel matrix on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reproduction.runtime.run_folder import UserError, read_json, shown, write_json

AGGREGATES = ("mean", "max", "q95")
SCALE_IMAGES = 1000


def aggregate(maps: Any, how: str = "mean") -> Any:
    """One number per image and channel from post-ReLU maps.

    Args:
      maps: torch float [B, M, H, W], or [B, M] (returned as it is).
      how: mean (the authors' follow-up), max or q95; the paper's own choice could not be read.
    Returns:
      torch float32 [B, M].
    """
    if maps.dim() == 2:
        return maps.float()
    flat = maps.float().flatten(2)
    if how == "mean":
        return flat.mean(2)
    if how == "max":
        return flat.amax(2)
    if how == "q95":
        return flat.quantile(0.95, 2)
    raise ValueError(f"response {how!r}: one of {', '.join(AGGREGATES)}")


@contextmanager
def tapped(layers: Mapping[str, Any], pool: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """Forward hooks on the named layers; `pool` is applied inside the hook, so no full map outlives its layer.

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
    """Sum and sum of squares of the responses of each class, float64 [K, M] each."""

    def __init__(self, num_classes: int, channels: int):
        self.count = np.zeros(num_classes, np.int64)
        self.sum = np.zeros((num_classes, channels))
        self.square = np.zeros((num_classes, channels))

    def update(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch: float [B, M] and int [B]."""
        values = np.asarray(values, np.float64)
        self.count += np.bincount(labels, minlength=len(self.count))
        for label in np.unique(labels):
            rows = values[labels == label]
            self.sum[label] += rows.sum(0)
            self.square[label] += (rows * rows).sum(0)

    def mean(self) -> np.ndarray:
        """Class profiles R, float64 [K, M]; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.sum / self.count[:, None]

    def sd(self) -> np.ndarray:
        """Population standard deviation inside each class, float64 [K, M]."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.clip(self.square / self.count[:, None] - self.mean() ** 2, 0, None))


class ResponseFile:
    """The image-by-channel matrix on disk, float16 with one scale per channel so that nothing overflows.

    The scale is the largest magnitude among the first 1,000 images (1 where that is 0); larger values later are fine
    up to 65,504 times that. Stored as `<name>.f16` with `<name>.json` beside it.
    """

    def __init__(self, path: Path, images: int, channels: int):
        self.path = path
        self.shape = (images, channels)
        self.row = 0
        self.scale = np.zeros(channels, np.float32)
        self._waiting: list[np.ndarray] = []
        self._map = np.memmap(path.with_suffix(".f16"), np.float16, "w+", shape=self.shape)

    def append(self, values: np.ndarray) -> None:
        """Adds the rows of a batch, float [B, M]."""
        values = np.asarray(values, np.float32)
        if self.row == 0:  # until the scale is known
            self._waiting.append(values)
            if sum(map(len, self._waiting)) >= min(SCALE_IMAGES, self.shape[0]):
                self._start()
        else:
            self._write(values)

    def _start(self) -> None:
        values = np.concatenate(self._waiting)
        self._waiting = []
        largest = np.abs(values[:SCALE_IMAGES]).max(0)
        self.scale = np.where(largest > 0, largest, 1).astype(np.float32)
        self._write(values)

    def _write(self, values: np.ndarray) -> None:
        self._map[self.row : self.row + len(values)] = values / self.scale
        self.row += len(values)

    def close(self) -> None:
        """Flushes, and writes the scales; raises ValueError where rows are missing."""
        if self._waiting:
            self._start()
        if self.row != self.shape[0]:
            raise ValueError(f"{self.path.name}: {self.row} of {self.shape[0]} rows were written")
        self._map.flush()
        del self._map
        write_json(self.path.with_suffix(".json"), {"shape": list(self.shape), "scale": self.scale.tolist()})


def open_responses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Opens what `ResponseFile` wrote.

    Returns:
      (memory map float16 [N, M] in units of the scale, float32 [M] scale). Ranks need no scale.
    Raises:
      UserError: missing, or damaged.
    """
    settings = read_json(path.with_suffix(".json"), "shape", "scale")
    try:
        rows, channels = settings["shape"]
        data = np.memmap(path.with_suffix(".f16"), np.float16, "r", shape=(rows, channels))
        return data, np.array(settings["scale"], np.float32).reshape(channels)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{shown(path)}: not the responses of a run ({error}); run analyze.py again") from None


class TopImages:
    """The images that excite each channel most, kept by a running top k; int64 [k, M], strongest first."""

    def __init__(self, channels: int, k: int = 25):
        self.k = k
        self.values = np.full((0, channels), 0, np.float32)
        self.images = np.zeros((0, channels), np.int64)

    def update(self, values: np.ndarray, images: np.ndarray) -> None:
        """Adds a batch: float [B, M] and the image ids, int [B]."""
        both = np.concatenate([self.values, np.asarray(values, np.float32)])
        ids = np.concatenate([self.images, np.broadcast_to(images[:, None], values.shape)])
        order = np.lexsort((ids, -both), axis=0)[: self.k]
        self.values = np.take_along_axis(both, order, 0)
        self.images = np.take_along_axis(ids, order, 0)


def stream(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]],
    num_images: int,
    num_classes: int,
    folder: Path,
) -> dict[str, tuple[ClassSums, TopImages]]:
    """Collects sums, top images and the matrix on disk from batches of pooled responses.

    Args:
      batches: (layer -> float [B, M], labels int [B], image ids int [B]) in a fixed order.
      num_images: images in all.
      num_classes: K.
      folder: one `<layer>.f16` and `.json` per layer go here.
    Returns:
      layer -> (class sums, top images).
    """
    out: dict[str, tuple[ClassSums, TopImages]] = {}
    files: dict[str, ResponseFile] = {}
    for values, labels, images in batches:
        for name, rows in values.items():
            if name not in out:
                out[name] = (ClassSums(num_classes, rows.shape[1]), TopImages(rows.shape[1]))
                files[name] = ResponseFile(folder / name, num_images, rows.shape[1])
            out[name][0].update(rows, labels)
            out[name][1].update(rows, images)
            files[name].append(rows)
    for file in files.values():
        file.close()
    return out


def class_correlation(profiles: np.ndarray) -> np.ndarray:
    """Correlation of the classes' profiles at a layer, each channel standardised over classes first.

    Args:
      profiles: float [K, M].
    Returns:
      float64 [K, K].
    """
    from hierarchy_cnn_torch.method.similarity import correlation

    centred = profiles - profiles.mean(0)
    sd = centred.std(0)
    return correlation(np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-12))
