"""Image sets that stay on disk as files: lists in the csv format of the triplet authors, and how sets come to them.

A list is UTF-8 with LF and the header `,label,file_name`: running number from 0, whole number, file name below the
folder of images. Four lists belong to a set (`FILES`). Sets of unequal images are never decoded here; whoever
trains on them decodes what it needs. Source: lists shipped by the authors of "Boosting Standard Classification
Architectures Through a Ranking Regularizer"; docs/papers/triplet.md.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from datasets import archive, image_folders
from datasets.core import DatasetError
from datasets.fetch import fetch, find, locked, places
from datasets.files import copy_file, read_bounded, reading, write_text
from datasets.manifest import entry
from datasets.split import TRAIN_SHARE, stratified
from datasets.verify import check_file

HEADER = ",label,file_name"
FILES = {
    "train": "train_sub_list.csv",
    "val": "val_sub_list.csv",
    "train_all": "train_all_sub_list.csv",
    "test": "test_all_sub_list.csv",
}
MOST_LIST_BYTES = 1 << 28
MOST_DIGITS = 18  # of a label; more may not fit 64 bits
MOST_ARCHIVE_BYTES = 64 << 30  # what an archive of images may unpack to
SPLIT_SEED = 0  # of `held_out`


@dataclass(frozen=True)
class Rows:
    """One list: its labels, int64 [N], as written in the file, and its file names."""

    labels: np.ndarray
    names: tuple[str, ...]

    def fingerprint(self) -> str:
        """First 16 hex digits of SHA-256 over the lines `file_name label`, joined by LF, no LF at the end."""
        lines = (f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def take(self, chosen: np.ndarray) -> Rows:
        """Returns the rows at the positions `chosen`, in that order."""
        return Rows(self.labels[chosen], tuple(self.names[i] for i in chosen))


@dataclass(frozen=True)
class Derived:
    """What a set's official files contain: the four lists by the keys of FILES, and class names by official label."""

    rows: Mapping[str, Rows]
    class_names: Mapping[int, str]


@dataclass(frozen=True)
class ImageLists:
    """A training and a test list with one label map.

    Attributes:
      name: of the set.
      images: folder in which the file names start.
      train: labels are 0..num_classes-1, by sorted value of this list.
      test: its labels are mapped as those of `train`.
      class_names: one for each class.
      digests: sha256 of each list, by file name.
      verified: True if the lists are known to be the published ones.
    """

    name: str
    images: Path
    train: Rows
    test: Rows
    class_names: tuple[str, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes of the training list."""
        return len(self.class_names)


def write_csv(path: Path, rows: Rows) -> None:
    """Writes a list, atomically."""
    numbered = enumerate(zip(rows.labels, rows.names, strict=True))
    lines = [HEADER, *(f"{i},{label},{name}" for i, (label, name) in numbered)]
    write_text(path, "\n".join(lines) + "\n")


def read_csv(path: Path) -> Rows:
    """Reads a list.

    Raises:
      DatasetError: missing, not in the format, no rows, a name twice, or one that is no path in the image folder.
    """
    with reading(path):
        lines = read_bounded(path, MOST_LIST_BYTES).decode("utf-8-sig").splitlines()  # -sig: Excel's mark
    if not lines or lines[0].strip() != HEADER:
        raise DatasetError(f"{path}: first line is {''.join(lines[:1])[:60]!r}, not {HEADER!r}")
    labels, names = [], []
    for number, line in enumerate(lines[1:], 2):
        _, comma, tail = line.partition(",")
        label, comma2, name = tail.partition(",")
        name = name.strip().strip('"')
        if not (comma and comma2 and name and label.strip().removeprefix("-").isdecimal()):
            raise DatasetError(f"{path}: line {number} is not `number,label,file name`: {line[:80]!r}")
        parts = PurePosixPath(name).parts
        if "\\" in name or "\0" in name:
            raise DatasetError(f"{path}: line {number}: {name!r} holds a backslash or NUL; write / between folders")
        if name.startswith("/") or ".." in parts:
            raise DatasetError(f"{path}: line {number}: {name!r} leaves the folder of images")
        if len(label) > MOST_DIGITS:
            raise DatasetError(f"{path}: line {number}: no label has more than {MOST_DIGITS} digits: {label[:80]!r}")
        labels.append(int(label))
        names.append(name)
    if not names:
        raise DatasetError(f"{path}: holds no rows")
    if len(set(names)) != len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise DatasetError(f"{path}: {twice} occurs twice")
    return Rows(np.array(labels, np.int64), tuple(names))


def check_files(rows: Rows, images: Path, listing: str) -> None:
    """Raises DatasetError that names the first row whose image file does not exist."""
    present: dict[str, set[str]] = {}
    for row, name in enumerate(rows.names):
        folder, _, file = name.rpartition("/")
        if folder not in present:
            try:
                present[folder] = set(os.listdir(images / folder))
            except OSError:
                present[folder] = set()
        if file not in present[folder]:
            raise DatasetError(f"{listing}: row {row}: {images / name} does not exist; are all images in place?")


def mapped(train: Rows, test: Rows, what: str, class_names: Mapping[int, str]) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Labels 0.. by sorted value of the training list, one map for both lists (STL-D19).

    Returns:
      (training rows, test rows, class names; the label itself if no name is known).

    Raises:
      DatasetError: a test label that the training list lacks, or fewer than two classes.
    """
    known, train_labels = np.unique(train.labels, return_inverse=True)
    if len(known) < 2:
        raise DatasetError(f"{what}: the training list has {len(known)} class; two or more are needed")
    bad = np.flatnonzero(~np.isin(test.labels, known))
    if len(bad):
        raise DatasetError(
            f"{what}: label {test.labels[bad[0]]} of {test.names[bad[0]]} is not among the {len(known)} labels "
            "of the training list"
        )
    names = tuple(class_names.get(int(label), str(label)) for label in known)
    test_labels = np.searchsorted(known, test.labels).astype(np.int64)
    return Rows(train_labels.astype(np.int64), train.names), Rows(test_labels, test.names), names


def load(
    name: str,
    lists: Path,
    images: Path,
    train: str = "train_all",
    test: str = "test",
    class_names: Mapping[int, str] | None = None,
) -> ImageLists:
    """Reads two lists of a folder and checks that every image is there.

    Args:
      name: of the set, for messages and records.
      lists: folder of the csv files.
      images: folder in which their file names start.
      train: key of FILES for the training list.
      test: key of FILES for the test list.
      class_names: name of each label as the lists write it.

    Raises:
      DatasetError: damaged lists, labels outside the training list, rows without a file.
    """
    rows, digests = {}, {}
    for split in (train, test):
        path = lists / FILES[split]
        rows[split] = read_csv(path)
        check_files(rows[split], images, str(path))
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    shared = set(rows[train].names) & set(rows[test].names)
    if shared:
        raise DatasetError(f"{lists}: {min(shared)} is in {FILES[train]} and in {FILES[test]}")
    first, second, names = mapped(rows[train], rows[test], str(lists / FILES[test]), class_names or {})
    return ImageLists(name, images, first, second, names, digests)


def from_folder(path: Path) -> ImageLists:
    """A folder of images as lists: PATH/{train,test}/CLASS/*, or PATH/CLASS/* with a stratified 80/20 split.

    Raises:
      DatasetError: see `image_folders.read` and `image_folders.check_split`.
    """
    images = image_folders.read(path)
    splits = {split: Rows(labels, tuple(names)) for split, (names, labels) in images.splits.items()}
    if "" in splits:
        train, test = held_out(splits[""])
    else:
        train, test = splits["train"], splits["test"]
    image_folders.check_split(path, images.classes, train.labels, test.labels)
    digests = {
        f"{images.name}/{split}": hashlib.sha256(os.fsencode("\n".join(rows.names))).hexdigest()
        for split, rows in (("train", train), ("test", test))
    }
    return ImageLists(images.name, path, train, test, images.classes, digests)


def held_out(train_all: Rows) -> tuple[Rows, Rows]:
    """Splits one list in two, stratified 80/20 with seed 0, each part in the order of the list.

    For sets without an official validation split (ours; the paper trains on the whole list), and for folders without
    a test split.
    """
    train_rows, val_rows = stratified(train_all.labels, round(TRAIN_SHARE * len(train_all.names)), SPLIT_SEED)
    return train_all.take(np.sort(train_rows)), train_all.take(np.sort(val_rows))


# ---- the official sets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """How the lists of an official set come about.

    Attributes:
      name: of the set, as in the manifest.
      folders: names below the data folder; ours first, then the authors'.
      images: folder of images below it.
      needs: the official files and folders that must be there, below it; `a|b` is either of the two.
      derive: folder -> lists; asserts known properties of the official files.
      unpack: archive of the manifest -> folder below it into which it goes.
      fingerprints: fingerprints of the lists, if they are known.
    """

    name: str
    folders: tuple[str, ...]
    images: str
    needs: tuple[str, ...]
    derive: Callable[[Path], Derived]
    unpack: Mapping[str, str]
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def complete(self, home: Path) -> bool:
        """Whether a folder holds everything that `derive` reads."""
        return all(any((home / either).exists() for either in need.split("|")) for need in self.needs)

    def derivable(self, home: Path) -> bool:
        """Whether a folder holds the official files of the lists, with or without the images."""
        needs = [need for need in self.needs if need not in self.unpack.values()]
        return dataclasses.replace(self, needs=tuple(needs)).complete(home)

    def home(self, root: Path | None) -> Path | None:
        """The folder below `root` with images and either the official split files or the two lists; or None."""
        for home in places(root, *self.folders)[:-1]:
            listed = all((home / "lists" / FILES[key]).is_file() for key in ("train_all", "test"))
            if (home / self.images).is_dir() and (listed or self.complete(home)):
                return home
        return None

    def present(self, root: Path | None) -> str:
        """The folder as text, or ""."""
        home = self.home(root)
        return "" if home is None else str(home)


def prepare(
    source: Source, root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None
) -> Path:
    """Finds or fetches, unpacks, derives: afterwards the set's folder holds images and lists.

    Existing lists (the authors' own, or ours of an earlier call) are not changed.

    Returns:
      The folder.

    Raises:
      DatasetError: no files and no download possible; a damaged archive; official files with other content.
    """
    home = source.home(root)
    if home is None:
        for folder in filter(source.derivable, places(root, *source.folders)[:-1]):
            if _derive(source, folder, accept_unverified):
                print(
                    f"{source.name}: lists derived in {folder / 'lists'}; the images are not there yet", file=sys.stderr
                )
        home = _unpacked(source, root, accept_unverified, offline)
    if source.complete(home):
        _derive(source, home, accept_unverified)
    return home


def _derive(source: Source, home: Path, accept_unverified: bool) -> bool:
    """Checks the official files and writes the lists that the set's folder lacks; returns whether there were any."""
    for file in entry(source.name).files:
        if file.name in source.needs:
            check_file(home / file.name, file, accept_unverified)
    missing = [key for key, file in FILES.items() if not (home / "lists" / file).is_file()]
    if missing:
        with locked(home / "lists"):
            derived = source.derive(home)
            if not accept_unverified:
                check_fingerprints(source, derived.rows)
            for key in missing:
                write_csv(home / "lists" / FILES[key], derived.rows[key])
    return bool(missing)


def check_fingerprints(source: Source, rows: Mapping[str, Rows]) -> None:
    """Raises DatasetError if a list is not the published one, for sets whose fingerprints are known."""
    for key, expected in source.fingerprints.items():
        got = rows[key].fingerprint()
        if got != expected:
            raise DatasetError(
                f"{source.name}: {FILES[key]} derived from the official files has fingerprint {got}, "
                f"expected {expected}; replace the split files by the official ones, or --accept-unverified"
            )


def _unpacked(source: Source, root: Path | None, accept_unverified: bool, offline: bool | None) -> Path:
    this, folders = entry(source.name), places(root, *source.folders)
    started = (folder for folder in folders[:-1] if any((folder / part).is_dir() for part in source.unpack.values()))
    home = next(started, folders[0])
    for file in this.files:
        target = source.unpack.get(file.name)
        packed = find([file.name], folders)
        if target is not None and packed is None and (home / target).is_dir():
            continue  # unpacked by an earlier call that was stopped later on
        path = packed or fetch(this, file, home, offline)
        check_file(path, file, accept_unverified)
        with locked(home):
            if target is not None:
                if not (home / target).is_dir():  # another process may have unpacked it while we waited, and reads it
                    archive.extract(path, home / target, MOST_ARCHIVE_BYTES, functools.partial(_inside, target))
            elif path.parent != home:
                copy_file(path, home / path.name)
    complete = source.home(root)
    if complete is None:
        wanted = ", ".join((source.images, *source.needs))
        raise DatasetError(f"{home}: not all of {wanted} are there; {this.placing(folders[-1])}")
    return complete


def _inside(folder: str, member: str) -> str | None:
    """Name of an archive's member below `folder`, whether or not the archive itself starts with that folder."""
    return member.removeprefix("./").removeprefix(f"{folder}/") or None


def load_set(
    source: Source,
    root: Path | None = None,
    accept_unverified: bool = False,
    offline: bool | None = None,
    train: str = "train_all",
    test: str = "test",
) -> ImageLists:
    """Returns an official set as lists; the first call fetches, unpacks and derives them.

    Raises:
      DatasetError: see `prepare` and `load`.
    """
    home = prepare(source, root, accept_unverified, offline)
    names = source.derive(home).class_names if source.complete(home) else {}
    opened = load(source.name, home / "lists", home / source.images, train, test, names)
    known = source.fingerprints
    verified = bool(known) and all(read_csv(home / "lists" / FILES[k]).fingerprint() == known[k] for k in (train, test))
    if known and not verified and not accept_unverified:
        raise DatasetError(
            f"{home / 'lists'}: not the published lists; delete them to derive them again, or --accept-unverified"
        )
    return dataclasses.replace(opened, verified=verified)
