"""Stanford Dogs: 20,580 photographs of 120 breeds; 12,000 train, 8,580 test.

Source: train_list.mat and test_list.mat of lists.tar (cell arrays of file names, labels 1..120);
docs/papers/triplet.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import lists, matfile
from datasets.core import DatasetError
from datasets.files import reading

NAME = "dogs"
OFFICIAL = "official"  # where lists.tar goes


def read_list(home: Path, name: str) -> lists.Rows:
    """One official list, labels from 0.

    Raises:
      DatasetError: damaged, or without the expected arrays.
    """
    path = home / name if (home / name).is_file() else home / OFFICIAL / name
    with reading(path):
        files = tuple(str(file) for file in matfile.table(path, "file_list"))
        labels = np.asarray(matfile.table(path, "labels")).astype(np.int64)
    if not len(files) or len(files) != len(labels) or labels.min() < 1:
        raise DatasetError(f"{path}: {len(files)} files and {len(labels)} labels, or a label below 1")
    return lists.Rows(labels - 1, files)


def derive(home: Path) -> lists.Derived:
    """The four lists in the official order; no official validation split, so ours. Names from the folders."""
    rows = {"train_all": read_list(home, "train_list.mat"), "test": read_list(home, "test_list.mat")}
    rows["train"], rows["val"] = lists.held_out(rows["train_all"])
    names = {}
    for label, file in zip(rows["train_all"].labels, rows["train_all"].names, strict=True):
        names[int(label)] = file.partition("/")[0].partition("-")[2] or file.partition("/")[0]
    return lists.Derived(rows, names)


SOURCE = lists.Source(
    name=NAME,
    folders=(NAME, "Stanford_dogs"),
    images="Images",
    needs=(f"train_list.mat|{OFFICIAL}/train_list.mat", f"test_list.mat|{OFFICIAL}/test_list.mat"),
    derive=derive,
    unpack={"images.tar": "Images", "lists.tar": OFFICIAL},
)

if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
