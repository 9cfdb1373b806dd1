"""NABirds: 48,562 photographs of 555 visual categories; 23,929 train, 24,633 test. By hand: the makers ask to register.

Labels of the lists are the official class ids, which have gaps; the loader maps them to 0..554.
Source: images.txt, image_class_labels.txt, train_test_split.txt, classes.txt; docs/papers/triplet.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import lists
from datasets.core import DatasetError
from datasets.files import read_bounded, reading

NAME = "nabirds"
FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
MOST_BYTES = 64 << 20


def table(path: Path) -> dict[str, str]:
    """First word of each line -> the rest of the line.

    Raises:
      DatasetError: a line of one word, or a first word that occurs twice.
    """
    with reading(path):
        lines = read_bounded(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        key, space, value = line.strip().partition(" ")
        if not space or key in values:
            raise DatasetError(f"{path}: line {number} is not `key value` with a new key: {line[:60]!r}")
        values[key] = value.strip()
    return values


def derive(home: Path) -> lists.Derived:
    """The four lists in the order of images.txt; no official validation split, so ours.

    Raises:
      DatasetError: damaged files, an image without class or split.
    """
    images, labels, split, classes = (table(home / name) for name in FILES)
    if not images:
        raise DatasetError(f"{home / FILES[0]}: empty")
    for key in images:
        if (
            len(labels.get(key, "")) > lists.MOST_DIGITS
            or not labels.get(key, "").isdecimal()
            or split.get(key) not in ("0", "1")
        ):
            raise DatasetError(f"{home}: image {key} of images.txt has no class number, or no split of 0 or 1")
    whole = lists.Rows(np.array([int(labels[key]) for key in images], np.int64), tuple(images.values()))
    train = np.array([split[key] == "1" for key in images])
    rows = {"train_all": whole.take(np.flatnonzero(train)), "test": whole.take(np.flatnonzero(~train))}
    rows["train"], rows["val"] = lists.held_out(rows["train_all"])
    return lists.Derived(
        rows, {int(key): name for key, name in classes.items() if key.isdecimal() and len(key) <= lists.MOST_DIGITS}
    )


SOURCE = lists.Source(
    name=NAME,
    folders=(NAME, f"{NAME}/{NAME}"),
    images="images",
    needs=FILES,
    derive=derive,
    unpack={"nabirds.tar.gz": NAME},
)

if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
