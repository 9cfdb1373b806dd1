"""ImageNet as lists of paths and labels; the images stay on disk and are decoded by whoever trains on them.

The JSON form is the one that the Class2Str authors read: {"paths": [...], "labels": [...]}.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets import image_folders
from datasets.core import DATA_ROOT, DatasetError, check_labels
from datasets.files import read_bounded, reading, write_json
from datasets.manifest import entry

NAME = "imagenet"
MOST_LIST_BYTES = 1 << 29


@dataclass(frozen=True)
class Listing:
    """Images of one split.

    Attributes:
      paths: one absolute path for each image.
      labels: int64 [N].
      class_names: folder names (WordNet ids) in sorted order, or () if only a JSON list was read.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]


def folder(root: Path | None = None) -> Path:
    """Returns the folder of ImageNet: data/imagenet with train/ and val/, or `root` itself if it has them."""
    base = DATA_ROOT if root is None else root
    return base if (base / "train").is_dir() and (base / "val").is_dir() else base / NAME


def present(root: Path | None = None) -> str:
    """The folder, or "" if there is none."""
    return str(folder(root)) if folder(root).is_dir() else ""


def scan(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """Lists one split: folder/CLASS/image.

    Args:
      folder: such as data/imagenet/train.
      classes: class names in order of their labels; None uses the sorted folder names.

    Raises:
      DatasetError: no such folder, no classes, no images, or a class that is not among `classes`.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; {entry(NAME).placing(folder.parent.parent)}")
    passed_over: Counter[str] = Counter()
    folders = image_folders.list_folders(folder, passed_over)
    order = list(folders if classes is None else classes)
    names, labels = image_folders.list_images(folder, folders, order, passed_over, may_be_empty=True)
    image_folders.print_passed_over(folder, passed_over)
    if not names:
        by_hand = entry(NAME).placing(folder.parent.parent)
        raise DatasetError(f"{folder}: no images in {len(folders)} class folders; {by_hand}")
    base = folder.absolute()
    return Listing(tuple(base / name for name in names), labels, tuple(order))


def write(listing: Listing, path: Path, base: Path) -> None:
    """Writes {"paths": [...], "labels": [...]} with paths relative to `base`."""
    relative = []
    for p in listing.paths:
        if not p.is_relative_to(base.absolute()):
            raise DatasetError(f"{p}: lies outside {base}, so the list {path.name} cannot name it")
        relative.append(p.relative_to(base.absolute()).as_posix())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"paths": relative, "labels": listing.labels.tolist()})


def read(path: Path, base: Path, num_classes: int = 1000) -> Listing:
    """Reads such a list, ours or the authors'.

    Args:
      path: the JSON file.
      base: folder in which relative paths start; absolute paths must be inside it.
      num_classes: labels must be in 0..num_classes-1.

    Raises:
      DatasetError: damaged, labels out of range, a path that leaves `base`, first image missing.
    """
    root = base.absolute()
    with reading(path):
        stored = json.loads(read_bounded(path, MOST_LIST_BYTES))
        paths, labels = stored["paths"], stored["labels"]
        if not isinstance(paths, list) or not isinstance(labels, list) or len(paths) != len(labels) or not paths:
            raise DatasetError(f"{path}: 'paths' and 'labels' must be two lists of the same length, one or more")
        if not all(isinstance(p, str) for p in paths) or not all(type(x) is int for x in labels):
            raise DatasetError(f"{path}: 'paths' must hold texts and 'labels' whole numbers")
        array = np.array(labels, np.int64)
    check_labels(array, num_classes, str(path))
    images = []
    for i, text in enumerate(paths):
        image = root / text
        if "\0" in text:
            raise DatasetError(f"{path}: path {text!r} at position {i} holds NUL")
        if ".." in image.parts or not image.is_relative_to(root):
            raise DatasetError(f"{path}: path {text!r} at position {i} leaves {base}")
        images.append(image)
    if not os.path.isfile(images[0]):  # Path.is_file raises if a name is too long
        raise DatasetError(f"{path}: its first image {images[0]} does not exist; is {base} the right folder?")
    return Listing(tuple(images), array, ())


def lists(root: Path | None = None) -> dict[str, Listing]:
    """Returns both splits; the first call writes the JSON lists to data/imagenet/lists, later calls read them.

    Raises:
      DatasetError: no such folders, no images, damaged lists.
    """
    base = folder(root)
    files = {split: base / "lists" / f"imagenet-{split}.json" for split in ("train", "val")}
    if all(f.is_file() for f in files.values()):
        return {split: read(path, base) for split, path in files.items()}
    train = scan(base / "train")
    listings = {"train": train, "val": scan(base / "val", train.class_names)}
    try:
        for split, listing in listings.items():
            write(listing, files[split], base)
    except OSError as error:  # ImageNet often lies on a read-only share; the lists are only a short cut
        print(f"{base / 'lists'}: not written ({error.strerror}); the folders are listed each time", file=sys.stderr)
    return listings


def prepare(root: Path | None, accept: bool) -> None:
    """Prints the sizes of both splits; there are no published digests that `accept` could overrule."""
    for split, listing in lists(root).items():
        print(f"{NAME}: {len(listing.paths):,} images in {split}, {listing.labels.max() + 1} classes")


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
