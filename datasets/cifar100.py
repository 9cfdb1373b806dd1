"""CIFAR-100: 50,000 + 10,000 colour images of 32 x 32 in 100 classes, which form 20 superclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datasets import cifar
from datasets.core import Dataset, DatasetError
from datasets.fetch import places
from datasets.manifest import entry

NAME = "cifar100"
SUBFOLDER = "cifar-100-python"
FINE, COARSE = 100, 20


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the files."""
    return places(root, f"{NAME}/{SUBFOLDER}", NAME, SUBFOLDER, "cifar_100")


def _names(meta: dict[str, Any], key: str, count: int, path: Path) -> tuple[str, ...]:
    names = meta.get(key)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(n, bytes | str) for n in names):
        raise DatasetError(f"{path}: no list of {count} names under {key!r}")
    return tuple(n.decode("ascii", "replace") if isinstance(n, bytes) else n for n in names)


def superclasses(fine: np.ndarray, coarse: np.ndarray, path: Path) -> np.ndarray:
    """The superclass of each class, int64 [100]; every image of a class must name the same one."""
    table = np.full(FINE, -1, np.int64)
    table[fine] = coarse
    if not np.array_equal(table[fine], coarse):
        raise DatasetError(f"{path}: images of one class name different superclasses")
    if (table < 0).any():
        raise DatasetError(f"{path}: no image of class {int(np.argmin(table))}, so its superclass is unknown")
    return table


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads CIFAR-100 with its fine labels and the superclass of each class; see `datasets.load`."""
    this = entry(NAME)
    home = cifar.folder(this, root, SUBFOLDER, folders(root), accept_unverified, offline)
    digests, verified = {}, True
    batches: dict[str, dict[str, Any]] = {}
    for file in this.contents:
        batches[file.name], checked = cifar.read(home / file.name, this, accept_unverified)
        digests[file.name] = checked.sha256
        verified &= checked.verified
    images, fine, coarse = {}, {}, {}
    for split in ("train", "test"):
        path = home / split
        pixels = cifar.rows(batches[split], path)
        fine[split] = cifar.labels(batches[split], "fine_labels", len(pixels), FINE, path)
        coarse[split] = cifar.labels(batches[split], "coarse_labels", len(pixels), COARSE, path)
        images[split] = cifar.images([pixels])
        batches[split].clear()  # 154 MB less while the other split is decoded
    table = superclasses(fine["train"], coarse["train"], home / "train")
    if not np.array_equal(table[fine["test"]], coarse["test"]):
        raise DatasetError(f"{home / 'test'}: superclasses differ from those in train")
    return Dataset(
        name=NAME,
        train_images=images["train"],
        train_labels=fine["train"],
        test_images=images["test"],
        test_labels=fine["test"],
        class_names=_names(batches["meta"], "fine_label_names", FINE, home / "meta"),
        coarse_labels=table,
        coarse_names=_names(batches["meta"], "coarse_label_names", COARSE, home / "meta"),
        digests=digests,
        verified=verified,
    )


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
