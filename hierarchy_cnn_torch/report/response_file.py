"""Responses streamed: class sums in memory, the image-by-channel matrix on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from hierarchy_cnn_torch.method.responses import ClassSums, TopImages
from reproduction.runtime.run_folder import UserError, read_json, shown, write_json

SCALE_IMAGES = 1000


class ResponseFile:
    """The image-by-channel matrix on disk, float16 with one scale per channel so that nothing overflows.

    The scale is the largest magnitude among the first 1,000 images (1 where that is 0); larger values later are fine
    up to 65,504 times that. Stored as `<name>.f16` with its scales in `<name>.json`.
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
        self._waiting.append(np.asarray(values, np.float32))
        if self.row or sum(map(len, self._waiting)) >= min(SCALE_IMAGES, self.shape[0]):
            self._write()

    def _write(self) -> None:
        values = np.concatenate(self._waiting)
        self._waiting = []
        if self.row == 0:
            largest = np.abs(values[:SCALE_IMAGES]).max(0)
            self.scale = np.where(largest > 0, largest, 1).astype(np.float32)
        self._map[self.row : self.row + len(values)] = values / self.scale
        self.row += len(values)

    def close(self) -> None:
        """Flushes, and writes the scales; raises ValueError where rows are missing."""
        if self._waiting:
            self._write()
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
