"""FGVC-Aircraft 2013b, variants: 10,000 photographs of 100 aircraft variants; train, val and test of a third each.

The lists come from `images_variant_{train,val,test}.txt`: a label is the place of the variant among the 100 names in
ASCII order. The fingerprints of the lists that the triplet authors ship are asserted.
Source: docs/papers/triplet.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import lists
from datasets.core import DatasetError
from datasets.files import read_bounded, reading

NAME = "aircraft"
DATA = "fgvc-aircraft-2013b/data"
SPLITS = ("train", "val", "test")
FINGERPRINTS = {
    "train": "41fe4f08ab844f5e",
    "val": "5679f32ea8391d56",
    "train_all": "69e54b02f1396edd",
    "test": "1ba64b8baa718060",
}
MOST_BYTES = 4 << 20


def read_split(path: Path) -> list[tuple[str, str]]:
    """(seven-digit id, variant) of each line; a variant may hold spaces and '/'.

    Raises:
      DatasetError: a line that is not `id variant`.
    """
    with reading(path):
        lines = read_bounded(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    pairs = []
    for number, line in enumerate(lines, 1):
        image, space, variant = line.rstrip().partition(" ")
        if not (len(image) == 7 and image.isdecimal() and space and variant):
            raise DatasetError(f"{path}: line {number} is not `seven digits, space, variant`: {line[:60]!r}")
        pairs.append((image, variant))
    if not pairs:
        raise DatasetError(f"{path}: empty")
    return pairs


def derive(home: Path) -> lists.Derived:
    """The four lists from the official split files, in their order; trainval is train, then val.

    Raises:
      DatasetError: damaged files, splits that overlap, a trainval file with other images.
    """
    folder = home / DATA
    pairs = {split: read_split(folder / f"images_variant_{split}.txt") for split in SPLITS}
    names = sorted({variant for split in pairs.values() for _, variant in split})  # ASCII order, as variants.txt
    number = {name: i for i, name in enumerate(names)}
    rows = {
        split: lists.Rows(np.array([number[v] for _, v in lines], np.int64), tuple(f"{i}.jpg" for i, _ in lines))
        for split, lines in pairs.items()
    }
    images = [image for lines in pairs.values() for image, _ in lines]
    if len(set(images)) != len(images):
        raise DatasetError(f"{folder}: an image is in two of the splits, or twice in one")
    trainval = folder / "images_variant_trainval.txt"
    if trainval.is_file() and set(read_split(trainval)) != set(pairs["train"] + pairs["val"]):
        raise DatasetError(f"{trainval}: holds other images or variants than train and val together")
    both = np.concatenate([rows["train"].labels, rows["val"].labels])
    rows["train_all"] = lists.Rows(both, rows["train"].names + rows["val"].names)
    return lists.Derived(rows, dict(enumerate(names)))


SOURCE = lists.Source(
    name=NAME,
    folders=(NAME, "aircrafts"),
    images=f"{DATA}/images",
    needs=tuple(f"{DATA}/images_variant_{split}.txt" for split in SPLITS),
    derive=derive,
    unpack={"fgvc-aircraft-2013b.tar.gz": "fgvc-aircraft-2013b"},
    fingerprints=FINGERPRINTS,
)

if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
