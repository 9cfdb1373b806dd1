"""Fashion-MNIST: 60,000 + 10,000 grey images of articles of clothing, 28 x 28, in MNIST's format."""

from __future__ import annotations

from pathlib import Path

from datasets import idx
from datasets.core import Dataset
from datasets.fetch import places
from datasets.manifest import entry

NAME = "fashion_mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the files; torchvision's layout and Debian's package dataset-fashion-mnist included."""
    return [*places(root, NAME, "FashionMNIST/raw", "fashion-mnist"), DEBIAN]


def present(root: Path | None = None) -> str:
    """The folder with the files, or ""."""
    return idx.present(entry(NAME), folders(root), places(root)[0])


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads Fashion-MNIST; see `datasets.load`."""
    placed = folders(root)
    return idx.load(entry(NAME), CLASSES, placed, placed[0], accept_unverified, offline)


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
