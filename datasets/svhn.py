"""SVHN, cropped digits: 73,257 + 531,131 extra training images and 26,032 test images, 32 x 32, in ten classes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets import arrays, matfile
from datasets.core import Dataset, DatasetError
from datasets.fetch import fetch, find, places
from datasets.manifest import entry
from datasets.verify import check_file

NAME = "svhn"
PIXELS = 32 * 32 * 3
AT_ONCE = 2048  # images decoded at a time: 6 MB
MOST_IMAGES = 1 << 20


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the files."""
    return places(root, NAME, "SVHN")


def labels(path: Path) -> np.ndarray:
    """Labels int64 [N] in 0..9; the files call the digit zero 10."""
    with matfile.variable(path, "y") as y:
        if len(y.dims) != 2 or 1 not in y.dims or not 0 < y.count <= MOST_IMAGES:
            raise DatasetError(f"{path}: y has size {y.dims}, expected N x 1")
        values = np.concatenate(list(y.chunks(y.count)))
    bad = np.flatnonzero(~np.isin(values, np.arange(1, 11)))
    if len(bad):
        raise DatasetError(f"{path}: label {values[bad[0]]} at position {bad[0]} is not in 1..10")
    return values.astype(np.int64) % 10


def images(path: Path, count: int) -> Iterator[np.ndarray]:
    """The images in order, uint8 [n, 32, 32, 3] with n up to AT_ONCE; `count` in all."""
    with matfile.variable(path, "X") as x:
        if x.dims != (32, 32, 3, count) or x.dtype != np.uint8:
            raise DatasetError(f"{path}: X is {x.dtype} {x.dims}, expected uint8 (32, 32, 3, {count})")
        for values in x.chunks(AT_ONCE * PIXELS):
            # In the file the row varies fastest: [image, channel, column, row] when read as C order.
            yield values.reshape(-1, 3, 32, 32).transpose(0, 3, 2, 1)


def _all_images(paths: Sequence[Path], counts: Sequence[int]) -> Iterator[np.ndarray]:
    for path, count in zip(paths, counts, strict=True):
        yield from images(path, count)


def load(
    root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None, extra: bool = True
) -> Dataset:
    """Loads SVHN; train is train + extra (604,388 images, 1.9 GB memory-mapped) unless `extra` is False.

    See `datasets.load`.
    """
    this, placed = entry(NAME), folders(root)
    paths: dict[str, Path] = {}
    digests, verified = {}, True
    for file in this.files:
        split = file.name.split("_")[0]
        if split == "extra" and not extra:
            continue
        paths[split] = find([file.name], placed) or fetch(this, file, placed[0], offline)
        checked = check_file(paths[split], file, accept_unverified)
        digests[file.name] = checked.sha256
        verified &= checked.verified
    parts: dict[str, list[str]] = {"train": [s for s in ("train", "extra") if s in paths], "test": ["test"]}
    classes = {s: labels(path) for s, path in paths.items()}
    split_images = {}
    for split, sources in parts.items():
        counts = [len(classes[s]) for s in sources]
        files = [paths[s] for s in sources]
        # The decoded file is named after what it was decoded from, so another source never meets an old result.
        key = hashlib.sha256("".join(digests[path.name] for path in files).encode()).hexdigest()[:16]
        split_images[split] = arrays.build(
            placed[0] / f"{'-'.join(sources)}-{key}.npy",
            (sum(counts), 32, 32, 3),
            functools.partial(_all_images, files, counts),
        )
    return Dataset(
        name=NAME,
        train_images=split_images["train"],
        train_labels=np.concatenate([classes[s] for s in parts["train"]]),
        test_images=split_images["test"],
        test_labels=classes["test"],
        class_names=tuple("0123456789"),
        digests=digests,
        verified=verified,
    )


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
