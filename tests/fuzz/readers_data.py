"""The readers of datasets/ as functions of one file; each asserts what its result has to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np

from datasets import (
    aircraft,
    archive,
    cifar,
    cifar100,
    dogs,
    files,
    folder,
    idx,
    imagenet,
    lists,
    manifest,
    mnist5k,
    pathmnist,
    svhn,
    unpickle,
    verify,
)
from datasets.core import DatasetError

HERE = PurePosixPath("/images")


def _stay(names: tuple[str, ...]) -> None:
    """No name of a list leads out of the folder of images."""
    for name in names:
        path = HERE / name
        assert ".." not in path.parts and path.is_relative_to(HERE) and "\0" not in name, name


def cifar_batch(path: Path) -> None:
    """A batch of CIFAR-10."""
    batch = unpickle.load(files.read_bounded(path, 1 << 20), path.name)
    pixels = cifar.rows(batch, path)
    labels = cifar.labels(batch, "labels", len(pixels), 10, path)
    assert cifar.images([pixels]).dtype == np.uint8 and labels.dtype == np.int64


def cifar_meta(path: Path) -> None:
    """The names of CIFAR-100."""
    found = unpickle.load(files.read_bounded(path, 1 << 20), path.name)
    assert all(isinstance(name, str) for name in cifar100._names(found, "coarse_label_names", 20, path))


def idx_images(path: Path) -> None:
    """Images of the MNIST family, gzipped."""
    images = idx.decode(files.read_bounded(path, 1 << 16), 3, path.name)
    assert images.dtype == np.uint8 and images.size <= 1 << 16


def svhn_file(path: Path) -> None:
    """Labels and images of SVHN."""
    labels = svhn.labels(path)
    for images in svhn.images(path, len(labels)):
        assert images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)


def csv_list(path: Path) -> None:
    """A list of the triplet authors' format, and its label map."""
    rows = lists.read_csv(path)
    _stay(rows.names)
    train, _, names = lists.mapped(rows, rows, path.name, {})
    assert train.labels.max() == len(names) - 1


def image_lists(path: Path) -> None:
    """The JSON lists of ImageNet."""
    first = path.parent / "train" / "a.jpg"
    first.parent.mkdir(exist_ok=True)
    first.touch()
    for image in imagenet.read(path, path.parent).paths:
        assert image.is_relative_to(path.parent) and ".." not in image.parts


def derived(module: ModuleType, others: Callable[[], dict[str, bytes]]) -> Callable[[Path], None]:
    """The official files of a set; `others` are the undamaged ones."""

    def read(path: Path) -> None:
        for name, body in others().items():
            place = path.parent / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if place != path:
                place.write_bytes(body)
        found = module.derive(path.parent)
        assert {"train", "val", "train_all", "test"} == found.rows.keys()
        for key, rows in found.rows.items():
            assert rows.labels.dtype == np.int64 and len(rows.labels) == len(rows.names)
            if key in ("train_all", "test") and len(rows.names):
                copy = path.parent / "copy.csv"
                lists.write_csv(copy, rows)
                _stay(lists.read_csv(copy).names)

    return read


def dogs_list(path: Path) -> None:
    """One official list of Stanford Dogs."""
    assert (dogs.read_list(path.parent, path.name).labels >= 0).all()


def aircraft_split(path: Path) -> None:
    """One official split of FGVC-Aircraft."""
    assert all(len(image) == 7 and variant for image, variant in aircraft.read_split(path))


def medmnist(path: Path) -> None:
    """The PathMNIST archive."""
    images, labels = pathmnist.decode(path, "val")
    assert images.dtype == np.uint8 and labels.dtype == np.int64


def photograph(path: Path) -> None:
    """One picture of folder:PATH."""
    assert folder.decode(files.read_bounded(path, 1 << 20), 8, path.name).shape == (8, 8, 3)


def unpacked(path: Path) -> None:
    """An archive, unpacked next to itself; nothing half-written stays."""
    target = path.parent / "target"
    try:
        for name in archive.extract(path, target, 1 << 22, lambda name: name):
            assert (target / name).resolve().is_relative_to(target.resolve())
    except DatasetError:
        assert not target.exists()
        raise
    finally:
        assert {p.name for p in path.parent.iterdir()} <= {path.name, "target"}


def digits(path: Path) -> None:
    """The table of mnist5k; a valid one has 5,000 rows, so only its refusals are looked at closely."""
    assert mnist5k.decode(files.read_bounded(path, mnist5k.TABLE_BYTES), path.name)[0].shape == (5000, 28, 28, 1)


def manifest_file(path: Path) -> None:
    """manifest.toml: names of files stay names of files."""
    for entry in manifest._read.__wrapped__(path).values():
        for file in (*entry.files, *entry.contents):
            assert PurePosixPath(file.name).name == file.name, file.name


def ledger(path: Path) -> None:
    """The digests of files seen before."""
    file = manifest.File("x", None, manifest.Digest(None, None, "unknown"))
    verify.check_bytes(b"body", path.parent / "x", file)
