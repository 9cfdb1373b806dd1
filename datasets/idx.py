"""The IDX files of the MNIST family, gzipped or not, wherever they were placed."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.core import Dataset, DatasetError, check_labels
from datasets.fetch import fetch, find
from datasets.files import read_bounded
from datasets.manifest import Entry, File
from datasets.verify import Checked, check_bytes

MAGIC = {1: 0x00000801, 3: 0x00000803}  # unsigned bytes in one and three dimensions


def present(entry: Entry, placed: Sequence[Path], base: Path) -> str:
    """The first folder with files of the set, or "".

    The data folder itself does not count: the whole family has the same file names, only sub-folders tell them apart.
    """
    path = find([f.name for f in (*entry.contents, *entry.files)], [folder for folder in placed if folder != base])
    return str(path.parent) if path else ""


def decode(raw: bytes, ndim: int, what: str) -> np.ndarray:
    """The array in an IDX file.

    Args:
      raw: the whole file.
      ndim: 1 for labels, 3 for images.
      what: the file's name, for messages.

    Returns:
      uint8, a read-only view of `raw`: [N] or [N, height, width].

    Raises:
      DatasetError: wrong magic number, or not as many bytes as the header says.
    """
    header = 4 * (1 + ndim)
    if len(raw) < header:
        raise DatasetError(f"{what}: {len(raw)} bytes are too few for an IDX file")
    magic, *shape = struct.unpack(f">{1 + ndim}I", raw[:header])
    if magic != MAGIC[ndim]:
        raise DatasetError(f"{what}: magic number 0x{magic:08x}, expected 0x{MAGIC[ndim]:08x}")
    size = math.prod(shape)
    if size != len(raw) - header or size == 0:
        raise DatasetError(f"{what}: {len(raw) - header:,} values, its header says {' x '.join(map(str, shape))}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read(
    entry: Entry, content: File, ndim: int, placed: Sequence[Path], home: Path, accept: bool, offline: bool | None
) -> tuple[np.ndarray, Checked]:
    packed = entry.file(f"{content.name}.gz")
    # The .gz of a distribution may differ from the official one; the bytes inside are what counts.
    path = find([content.name, packed.name], placed) or fetch(entry, packed, home, offline)
    raw = read_bounded(path, None if accept else content.bytes)
    checked = check_bytes(raw, path, content, accept)
    return decode(raw, ndim, str(path)), checked


def load(
    entry: Entry, classes: tuple[str, ...], placed: Sequence[Path], home: Path, accept: bool, offline: bool | None
) -> Dataset:
    """Loads one set of the family.

    Args:
      entry: its manifest entry, with the contents `train-images-idx3-ubyte` and so on.
      classes: class names.
      placed: folders to look into.
      home: folder to download into.
      accept: use files that differ from the manifest's.
      offline: downloads off.
    """
    digests, verified = {}, True
    arrays = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for kind, suffix, ndim in (("images", "images-idx3-ubyte", 3), ("labels", "labels-idx1-ubyte", 1)):
            content = entry.file(f"{stem}-{suffix}")
            arrays[split, kind], checked = _read(entry, content, ndim, placed, home, accept, offline)
            digests[content.name] = checked.sha256
            verified &= checked.verified
        check_labels(arrays[split, "labels"].astype(np.int64), len(classes), f"{stem}-labels-idx1-ubyte")
    return Dataset(
        name=entry.name,
        train_images=arrays["train", "images"][..., None],
        train_labels=arrays["train", "labels"].astype(np.int64),
        test_images=arrays["test", "images"][..., None],
        test_labels=arrays["test", "labels"].astype(np.int64),
        class_names=classes,
        digests=digests,
        verified=verified,
    )
