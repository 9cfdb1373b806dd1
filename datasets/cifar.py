"""Shared code of CIFAR-10 and CIFAR-100: finding the batches, and decoding one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import archive, unpickle
from datasets.core import DatasetError, check_labels
from datasets.fetch import fetch, find, locked, places
from datasets.files import read_bounded
from datasets.manifest import Entry
from datasets.verify import Checked, check_bytes, check_file


def folder(
    entry: Entry, root: Path | None, subfolder: str, placed: Sequence[Path], accept: bool, offline: bool | None
) -> Path:
    """The folder that holds the batches: where somebody placed them, else unpacked from the archive.

    Args:
      entry: the data set.
      root: the data folder, None for the repository's.
      subfolder: the folder's name in the archive.
      placed: folders to look into first.
      accept: unpack an archive whose digest differs.
      offline: downloads off.
    """
    names, home = [f.name for f in entry.contents], places(root, entry.name)[0]
    for candidate in placed:
        present = [n for n in names if (candidate / n).is_file()]
        if present and len(present) < len(names):
            missing = next(n for n in names if n not in present)
            raise DatasetError(
                f"{candidate / missing}: missing, though {present[0]} is there; add it, or move the folder away "
                f"and run: {entry.command(home.parent)}"
            )
        if present:
            return candidate
    packed = entry.files[0]
    path = find([packed.name], places(root, entry.name)) or fetch(entry, packed, home, offline)
    target = home / subfolder
    with locked(home):
        if not (target / names[0]).is_file():  # Another process may have unpacked it while we waited for the lock.
            check_file(path, packed, accept)
            wanted = {f"{subfolder}/{name}": name for name in names}
            limit = 2 * sum(f.bytes or 0 for f in entry.contents) + (16 << 20)
            written = archive.extract(path, target, limit, lambda name: wanted.get(name.removeprefix("./")))
            if set(written) != set(names):
                lost = next(n for n in names if n not in written)
                raise DatasetError(f"{path}: holds no {subfolder}/{lost}; delete it and {target}, then fetch again")
    return target


def read(path: Path, entry: Entry, accept: bool) -> tuple[dict[str, Any], Checked]:
    """One verified batch as a dictionary."""
    file = entry.file(path.name)
    raw = read_bounded(path, None if accept else file.bytes)
    checked = check_bytes(raw, path, file, accept)
    return unpickle.load(raw, str(path)), checked


def rows(batch: dict[str, Any], path: Path) -> np.ndarray:
    """The pixel rows of a batch: uint8 [n, 3072], the red plane first."""
    data = batch.get("data")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or len(data) == 0:
        raise DatasetError(f"{path}: no rows of 3,072 pixels under 'data'")
    return data


def labels(batch: dict[str, Any], key: str, count: int, num_classes: int, path: Path) -> np.ndarray:
    """The labels of a batch: int64 [count], each in 0..num_classes-1."""
    values = batch.get(key)
    if not isinstance(values, list) or not all(type(x) is int and abs(x) < 1 << 31 for x in values):
        raise DatasetError(f"{path}: no list of whole numbers under {key!r}")
    if len(values) != count:
        raise DatasetError(f"{path}: {len(values)} labels under {key!r} for {count} images")
    array = np.array(values, np.int64)
    check_labels(array, num_classes, f"{path}, {key}")
    return array


def images(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of planes to uint8 [N, 32, 32, 3], filled batch by batch."""
    out = np.empty((sum(len(b) for b in batches), 32, 32, 3), np.uint8)
    start = 0
    for batch in batches:
        planes, pixels = batch.reshape(-1, 3, 32, 32), out[start : start + len(batch)]
        for channel in range(3):  # in a quarter of the time that one transposed copy takes
            pixels[..., channel] = planes[:, channel]
        start += len(batch)
    return out
