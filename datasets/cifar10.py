"""CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 in ten classes, from the "python version" files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets import cifar
from datasets.core import Dataset
from datasets.fetch import places
from datasets.manifest import entry

NAME = "cifar10"
SUBFOLDER = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the batches; the last is the folder name in the Class2Str authors' README."""
    names = (f"{NAME}/{SUBFOLDER}", NAME, SUBFOLDER, "cifar_10")
    return [*places(root, *names), Path("cifar_10")]


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads CIFAR-10; see `datasets.load`."""
    this = entry(NAME)
    home = cifar.folder(this, root, SUBFOLDER, folders(root), accept_unverified, offline)
    pixels, labels, digests, verified = [], [], {}, True
    for file in this.contents:  # data_batch_1..5, then test_batch
        path = home / file.name
        batch, checked = cifar.read(path, this, accept_unverified)
        pixels.append(cifar.rows(batch, path))
        labels.append(cifar.labels(batch, "labels", len(pixels[-1]), len(CLASSES), path))
        digests[file.name] = checked.sha256
        verified &= checked.verified
    return Dataset(
        name=NAME,
        train_images=cifar.images(pixels[:-1]),
        train_labels=np.concatenate(labels[:-1]),
        test_images=cifar.images(pixels[-1:]),
        test_labels=labels[-1],
        class_names=CLASSES,
        digests=digests,
        verified=verified,
    )


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
