"""Folders of images, one sub-folder per class: what counts as an image, one rule for all readers.

An image is a file CLASS/NAME.jpg, .jpeg or .png whose name does not start with a dot. Everything else is passed over
and counted in one line. Images are listed here, never opened.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

import numpy as np

from datasets.core import DatasetError, name_of

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Images:
    """The images of a folder.

    Attributes:
      name: folder:NAME, the last part of the path.
      classes: names of the class folders, sorted; a label is a position here.
      splits: by "train" and "test", or by "" if the folder is not divided: names below the folder in order of class
        and name, and labels int64 [N].
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[list[str], np.ndarray]]


def read(path: Path) -> Images:
    """Lists PATH/train/CLASS/NAME and PATH/test/CLASS/NAME, or PATH/CLASS/NAME; prints a line on what it ignored.

    Raises:
      DatasetError: no such folder, only one of train and test, fewer than two classes, a class without images, a class
        of the test folder that the training folder lacks, or a name that is not UTF-8.
    """
    if not path.is_dir():
        raise DatasetError(f"folder:{path}: no such folder; expected one sub-folder per class")
    passed_over: Counter[str] = Counter()
    top = list_folders(path, passed_over)
    divided = "train" in top and "test" in top
    if divided:
        others = [name for name in top if name not in ("train", "test")]
        passed_over.update(f"folder {name!r} next to train and test" for name in others)
    else:
        _refuse_half(path, top)
    train = path / "train" if divided else path
    classes = list_folders(train, passed_over) if divided else top
    if len(classes) < 2:
        raise DatasetError(f"{train}: {len(classes)} sub-folders; expected one per class, two classes or more")
    splits = {}
    for split in ("train", "test") if divided else ("",):
        folder = path / split
        present = list_folders(folder, passed_over) if split == "test" else classes
        names, labels = list_images(folder, present, classes, passed_over)
        splits[split] = [f"{split}/{name}" for name in names] if split else names, labels
    print_passed_over(path, passed_over)
    name = name_of(Path(os.path.abspath(path)))  # of `.` too
    return Images(f"folder:{name}", tuple(name_of(train / name) for name in classes), splits)


def check_split(path: Path, classes: Sequence[str], train: np.ndarray, test: np.ndarray) -> None:
    """Refuses a split of a folder that nothing can be trained or tested on.

    Args:
      path: the folder, for messages.
      classes: names in order of their labels.
      train: labels of the training images.
      test: labels of the test images.

    Raises:
      DatasetError: no test image, or a class without a training image.
    """
    if not len(test):
        raise DatasetError(f"folder:{path}: no image is left for the test split; more images are needed")
    lacking = np.setdiff1d(np.arange(len(classes)), train)
    if len(lacking):
        raise DatasetError(
            f"folder:{path}: the only image of class {classes[lacking[0]]!r} fell into the test split; "
            "a class needs two images or more"
        )


def _refuse_half(path: Path, top: Sequence[str]) -> None:
    """Raises DatasetError if train or test holds folders, so is no class, and the other one is missing."""
    has = [name for name in ("train", "test") if name in top and list_folders(path / name, Counter())]
    if has:
        lacks = "test" if has == ["train"] else "train"
        others = [name for name in top if name != has[0] and name.lower().startswith("val")]
        hint = f"; to use {others[0]} as {lacks}: ln -s {quote(others[0])} {quote(str(path / lacks))}" if others else ""
        raise DatasetError(
            f"folder:{path}: has {' and '.join([*has, *others])} but no {lacks}; "
            f"expected train and test, or one sub-folder per class{hint}"
        )


def _kind(entry: os.DirEntry[str]) -> str:
    """folder, file, or why it is neither."""
    if entry.name.startswith("."):  # .DS_Store, and the ._NAME that macOS puts on other disks
        return "hidden"
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        pass
    return "dangling link" if entry.is_symlink() else "neither file nor folder"


def _scan(folder: Path, passed_over: Counter[str]) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, each sorted."""
    names: dict[str, list[str]] = {"folder": [], "file": []}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = _kind(entry)
                if kind in names:
                    names[kind].append(entry.name)
                else:
                    passed_over[kind] += 1
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(names["folder"]), sorted(names["file"])


def list_folders(folder: Path, passed_over: Counter[str]) -> list[str]:
    """Names of the class folders, sorted; `passed_over` is added to, by reason."""
    folders, files = _scan(folder, passed_over)
    passed_over.update(["outside the class folders"] * len(files))
    return folders


def list_images(
    folder: Path, present: Sequence[str], classes: Sequence[str], passed_over: Counter[str], may_be_empty: bool = False
) -> tuple[list[str], np.ndarray]:
    """The images of class folders.

    Args:
      folder: holds the class folders.
      present: names of the class folders in it.
      classes: names of all classes in the order of their labels.
      passed_over: is added to, by reason.
      may_be_empty: accept class folders without an image.

    Returns:
      Names CLASS/NAME in order of `present` and name, and labels int64 [N].

    Raises:
      DatasetError: a class that is not among `classes`, one without images, or a name that is not UTF-8.
    """
    number = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for name in present:
        name_of(folder / name)
        if name not in number:
            raise DatasetError(
                f"{folder / name}: a class that the training folder lacks ({len(classes)} classes there)"
            )
        others: Counter[str] = Counter()
        folders, files = _scan(folder / name, others)
        others.update(["sub-folder of a class"] * len(folders))
        images = []
        for file in files:
            suffix = PurePosixPath(file).suffix.lower()
            if suffix in SUFFIXES:
                images.append(f"{name}/{file}")
            else:
                others[suffix if suffix[1:].isascii() and suffix[1:].isalnum() else "other type"] += 1
        if not images and not may_be_empty:
            there = f"; there: {_counted(others)}" if others else ""
            hint = "; if these are the classes, call the folders above them train and test" if folders else ""
            raise DatasetError(f"{folder / name}: no JPEG or PNG file ({', '.join(SUFFIXES)}){there}{hint}")
        passed_over.update(others)
        names += images
        labels += [number[name]] * len(images)
    return names, np.array(labels, np.int64)


def _counted(passed_over: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in passed_over.most_common(12))


def print_passed_over(path: Path, passed_over: Counter[str]) -> None:
    """Prints one line on what was ignored in a folder; nothing if everything was an image."""
    if passed_over:
        print(
            f"{path}: ignored: {_counted(passed_over)}; an image is a file CLASS/NAME with {', '.join(SUFFIXES)}",
            file=sys.stderr,
        )
