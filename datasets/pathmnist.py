"""PathMNIST (MedMNIST v2): 89,996 + 10,004 + 7,180 histology images of 28 x 28 in nine tissue classes.

One .npz file of the medmnist package: {train,val,test}_images uint8 [n, 28, 28, 3], {train,val,test}_labels [n, 1].
`load` returns training and test split, `validation` the official validation split.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from datasets.core import Dataset, DatasetError, check_labels
from datasets.fetch import fetch, find, places
from datasets.files import MOST_BYTES, reading
from datasets.manifest import entry
from datasets.verify import Checked, check_file

NAME = "pathmnist"
CLASSES = (
    "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
    "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
)  # fmt: skip
SHAPE = (28, 28, 3)


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the file; the medmnist package's own folder comes last."""
    return [*places(root, NAME, "medmnist"), Path(os.path.expanduser("~/.medmnist"))]  # users without a home exist


def _file(root: Path | None, accept: bool, offline: bool | None) -> tuple[Path, Checked]:
    this = entry(NAME)
    placed = folders(root)
    path = find([this.files[0].name], placed) or fetch(this, this.files[0], placed[0], offline)
    return path, check_file(path, this.files[0], accept)


def decode(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns one split of the file.

    Args:
      path: the .npz file.
      part: "train", "val" or "test".

    Returns:
      images uint8 [n, 28, 28, 3], labels int64 [n].

    Raises:
      DatasetError: damaged, holds pickled objects, or has other arrays.
    """
    with reading(path), zipfile.ZipFile(path) as packed:
        wanted = (f"{part}_images.npy", f"{part}_labels.npy")
        sizes = {info.filename: info.file_size for info in packed.infolist()}
        if missing := next((name for name in wanted if name not in sizes), None):
            raise DatasetError(f"{path}: holds no {missing.removesuffix('.npy')}; it is another file")
        if sum(sizes[name] for name in wanted) > MOST_BYTES:
            raise DatasetError(f"{path}: {part} unpacks to more than {MOST_BYTES:,} bytes; another file, or a bomb")
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = (np.asarray(arrays[f"{part}_{kind}"]) for kind in ("images", "labels"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != SHAPE or len(images) == 0:
        raise DatasetError(f"{path}: {part} images are {images.dtype} {images.shape}, expected uint8 (n, 28, 28, 3)")
    if labels.dtype.kind not in "ui" or labels.shape not in ((len(images), 1), (len(images),)):
        raise DatasetError(f"{path}: {part} labels are {labels.dtype} {labels.shape} for {len(images)} images")
    flat = labels.reshape(-1).astype(np.int64)
    check_labels(flat, len(CLASSES), f"{path}, {part}")
    return images, flat


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads training and test split; see `datasets.load`."""
    path, checked = _file(root, accept_unverified, offline)
    train_images, train_labels = decode(path, "train")
    test_images, test_labels = decode(path, "test")
    return Dataset(
        name=NAME,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=CLASSES,
        digests={path.name: checked.sha256},
        verified=checked.verified,
    )


def validation(root: Path | None = None, accept_unverified: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The official validation split: images uint8 [10004, 28, 28, 3], labels int64 [10004]."""
    return decode(_file(root, accept_unverified, None)[0], "val")


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
