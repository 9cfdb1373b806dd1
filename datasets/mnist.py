"""MNIST: 60,000 + 10,000 grey images of handwritten digits, 28 x 28."""

from __future__ import annotations

from pathlib import Path

from datasets import idx
from datasets.core import Dataset
from datasets.fetch import places
from datasets.manifest import entry

NAME = "mnist"


def folders(root: Path | None) -> list[Path]:
    """Folders that may contain the files; torchvision's layout included."""
    return places(root, NAME, "MNIST/raw", "MNIST")


def present(root: Path | None = None) -> str:
    """The folder with the files, or ""."""
    return idx.present(entry(NAME), folders(root), places(root)[0])


def load(root: Path | None = None, accept_unverified: bool = False, offline: bool | None = None) -> Dataset:
    """Loads MNIST; see `datasets.load`."""
    placed = folders(root)
    return idx.load(entry(NAME), tuple("0123456789"), placed, placed[0], accept_unverified, offline)


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
