"""Oxford Flowers-102: 8,189 photographs; 1,020 train, 1,020 val, 6,149 test.

The authors train on the 1,020 images of `trnid` alone (their table says 1020/6149), so `train_all` is that list too.
Source: imagelabels.mat and setid.mat; docs/papers/triplet.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import lists, matfile
from datasets.core import DatasetError

NAME = "flowers102"
SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
MOST_IMAGES = 1 << 20


def row_vector(path: Path, name: str) -> np.ndarray:
    """A variable of one row or one column, as int64 [N].

    Raises:
      DatasetError: another shape, or values that are no whole numbers >= 1.
    """
    with matfile.variable(path, name) as vector:
        if len(vector.dims) != 2 or 1 not in vector.dims or not 0 < vector.count <= MOST_IMAGES:
            raise DatasetError(f"{path}: {name} has size {vector.dims}, expected 1 x N")
        values = np.concatenate(list(vector.chunks(vector.count)))
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values) or whole.min() < 1:
        raise DatasetError(f"{path}: {name} holds values that are no whole numbers >= 1")
    return whole


def derive(home: Path) -> lists.Derived:
    """The four lists; labels from 0, in the order of setid.mat.

    Raises:
      DatasetError: damaged files, an image number without a label, splits that overlap.
    """
    labels = row_vector(home / "imagelabels.mat", "labels") - 1
    ids = {split: row_vector(home / "setid.mat", name) for split, name in SPLITS.items()}
    every = np.concatenate(list(ids.values()))
    if every.max() > len(labels) or len(np.unique(every)) != len(every):
        raise DatasetError(f"{home / 'setid.mat'}: image numbers beyond {len(labels)}, or one in two splits")
    rows = {
        split: lists.Rows(labels[numbers - 1], tuple(f"image_{i:05d}.jpg" for i in numbers))
        for split, numbers in ids.items()
    }
    rows["train_all"] = rows["train"]
    return lists.Derived(rows, {})


SOURCE = lists.Source(
    name=NAME,
    folders=(NAME, "flower102", "flowers-102"),
    images="jpg",
    needs=("imagelabels.mat", "setid.mat"),
    derive=derive,
    unpack={"102flowers.tgz": "jpg"},
)

if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
