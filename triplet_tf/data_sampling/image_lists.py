"""The lists of a --db_name: an official set, a folder in the csv format, or a folder of images. No framework."""

from __future__ import annotations

import importlib
from pathlib import Path

import datasets
from datasets import lists
from datasets.identity import content_digest
from triplet_tf.config.base_config import Config
from triplet_tf.data_sampling import digits

# --db_name -> module of datasets/
OFFICIAL = {"flowers": "flowers102", "aircrafts": "aircraft", "cars": "cars", "dogs": "dogs", "birds": "nabirds"}


def splits(config: Config) -> tuple[str, str]:
    """Returns the keys of the training list and of the list of the periodic tests.

    DEVIATION STL-D06: what the released code calls validation is the test list; --eval_split val trains on the
    official training list and selects on the official validation list.
    """
    return ("train_all", "test") if config.eval_split == "test" else ("train", "val")


def data_set(config: Config) -> str:
    """Returns the name of the data set as `datasets.identity` knows it."""
    return OFFICIAL.get(config.db_name, config.db_name)


def digests(config: Config, opened: lists.ImageLists) -> dict[str, str]:
    """Returns what a run belongs to: digests of the lists, and one over names and contents of all images of both."""
    final = open_lists(config, final=True) if config.eval_split == "val" else opened
    names = dict.fromkeys((*opened.train.names, *opened.test.names, *final.test.names))
    paths = [opened.images / name for name in names]
    content = content_digest(paths, opened.images, Path(config.data_dir))
    return {**final.digests, **opened.digests, "images": content}


def open_lists(config: Config, final: bool = False) -> lists.ImageLists:
    """Opens the training list and the test list of a configuration.

    Args:
      config: resolved flags.
      final: the test list whatever --eval_split says, with the training list of the run.

    Raises:
      DatasetError: nothing there, damaged lists, rows without a file, labels outside the training list, fewer than two
        test images.
    """
    train, test = splits(config)
    test = "test" if final else test
    opened = _open(config, train, test)
    if len(opened.test.names) < 2:
        raise datasets.DatasetError(
            f"{config.db_name}: the {test} list has 1 image; two or more are needed, because recall looks for the "
            "nearest other one: add images"
        )
    return opened


def _open(config: Config, train: str, test: str) -> lists.ImageLists:
    db, root = config.db_name, Path(config.data_dir)
    if db in OFFICIAL:
        source = importlib.import_module(f"datasets.{OFFICIAL[db]}").SOURCE
        return lists.load_set(source, root, config.accept_unverified, train=train, test=test)
    kind, _, name = db.partition(":")
    if kind == "folder":
        if train == "train":
            raise datasets.DatasetError("--eval_split val: a folder has no validation list; use csv:NAME")
        return lists.from_folder(Path(name))
    home = root / name
    if name in datasets.NAMES and not (home / "lists").is_dir():
        return digits.load(name, root, train, test, config.accept_unverified)
    if not (home / "lists").is_dir():
        raise datasets.DatasetError(
            f"{home / 'lists'}: no such folder; csv:{name} expects {lists.FILES[train]} and {lists.FILES[test]} there, "
            f"and the images in {home / 'images'} or {home}"
        )
    return lists.load(db, home / "lists", home / "images" if (home / "images").is_dir() else home, train, test)
