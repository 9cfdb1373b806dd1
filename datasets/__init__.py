"""Data sets of the five papers as NumPy arrays: fetched, verified, decoded.

    import datasets
    ds = datasets.load("mnist5k")
    ds.train_images  # uint8 [N, H, W, C]

No framework is imported here. Importing the package decodes nothing; each set has its own module, which is
imported when the set is asked for. `python -m datasets` lists the sets.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from datasets.core import Dataset, DatasetError, NoNetwork, file_error
from datasets.split import hold_out, sample, subset

__all__ = ["NAMES", "Dataset", "DatasetError", "NoNetwork", "check_name", "hold_out", "load", "sample", "subset"]

NAMES = ("mnist5k", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "pathmnist")


def check_name(name: str) -> str:
    """Returns `name` if it is a data set or "folder:PATH"; for argparse.

    Raises:
      DatasetError: with the names that are allowed.
    """
    if name in NAMES or (name.startswith("folder:") and name != "folder:"):
        return name
    raise DatasetError(f"unknown data set {name!r}: choose {', '.join(NAMES)} or folder:PATH")


def load(
    name: str,
    data_dir: str | Path | None = None,
    accept_unverified: bool = False,
    offline: bool | None = None,
    size: int = 32,
    **options: Any,
) -> Dataset:
    """Loads a data set, fetching it first if that is needed and allowed.

    Args:
      name: one of NAMES, or "folder:PATH" for a folder of images (one sub-folder per class).
      data_dir: data folder, for files and downloads; None is `data/` of this repository.
      accept_unverified: use files whose digest differs from the manifest's; the result has `verified=False`.
      offline: True never downloads; None reads the environment variable DATASETS_OFFLINE.
      size: height and width in pixels to which the images of a folder are resized; other sets have their own size.
      options: further arguments of the set's own `load`, such as `extra=False` for svhn.

    Returns:
      The decoded data set.

    Raises:
      DatasetError: unknown name, missing, damaged or hostile files, no connection.
    """
    check_name(name)
    root = None if data_dir is None else Path(data_dir)
    try:
        if name.startswith("folder:"):
            reader = importlib.import_module("datasets.folder")
            loaded: Dataset = reader.load(Path(name.removeprefix("folder:")), root, size, **options)
        else:
            loaded = importlib.import_module(f"datasets.{name}").load(root, accept_unverified, offline, **options)
    except OSError as error:
        raise file_error(name, error) from error
    return loaded
