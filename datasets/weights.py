"""ImageNet weights that somebody placed by hand, checked before any framework opens them.

Expected in data/weights: VGG16 as `vgg16_weights.npz` (D. Frossard's conversion, which the Class2Str authors use),
slim checkpoints as their archive or unpacked, torchvision's ResNet-18 state dict. Nothing is fetched unless asked
for: python -m datasets.weights vgg16_weights.npz
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from datasets import archive
from datasets.core import DATA_ROOT, DatasetError
from datasets.fetch import fetch, locked, places
from datasets.fetch import find as find_file
from datasets.files import MOST_BYTES
from datasets.manifest import entry
from datasets.verify import check_file

NAME = "weights"
# The tarball that holds each slim checkpoint.
PACKED = {
    "vgg_16.ckpt": "vgg_16_2016_08_28.tar.gz",
    "resnet_v1_50.ckpt": "resnet_v1_50_2016_08_28.tar.gz",
    "resnet_v2_50.ckpt": "resnet_v2_50_2017_04_14.tar.gz",
    "inception_v4.ckpt": "inception_v4_2016_09_09.tar.gz",
    "mobilenet_v1_1.0_224.ckpt": "mobilenet_v1_1.0_224.tgz",
}
# Files of a checkpoint in TensorFlow's newer format; the others are one file.
PARTS = {
    "mobilenet_v1_1.0_224.ckpt": tuple(f"mobilenet_v1_1.0_224.ckpt.{end}" for end in ("data-00000-of-00001", "index"))
}


def names() -> tuple[str, ...]:
    """The weight files that `find` knows."""
    return (*(f.name for f in entry(NAME).files if f.name not in PACKED.values()), *PACKED)


def is_there(path: Path) -> bool:
    """Whether weights lie at a path: a file, or the files of a checkpoint whose prefix it is."""
    return all(path.with_name(part).is_file() for part in PARTS.get(path.name, (path.name,)))


def present(root: Path | None = None) -> str:
    """The names of the weight files that are there, or ""."""
    home = (DATA_ROOT if root is None else root) / NAME
    known = (*names(), *PACKED.values())
    return ", ".join(n for n in known if is_there(home / n) or is_there(home / n.removesuffix(".ckpt") / n))


def find(
    name: str, root: Path | None = None, from_flag: Path | None = None, accept_unverified: bool = False
) -> tuple[Path, str]:
    """The checked file with those weights.

    Args:
      name: one of `names()`.
      root: the data folder.
      from_flag: a path from a flag; checked like a file in its place.
      accept_unverified: use a file whose digest differs.

    Returns:
      The path and the file's sha256; of a checkpoint in several files the prefix and the sha256 of its data.

    Raises:
      DatasetError: unknown name, no such file, wrong digest, hostile archive.
    """
    this = entry(NAME)
    if name not in names():
        raise DatasetError(f"unknown weights {name!r}: choose {', '.join(names())}")
    home = (DATA_ROOT if root is None else root) / NAME
    stem = name.removesuffix(".ckpt")
    candidates = [from_flag] if from_flag is not None else [home / name, home / stem / name]
    path = next((p for p in candidates if is_there(p)), None)
    if path is None and from_flag is None and name in PACKED and (home / PACKED[name]).is_file():
        path = _unpack(home, name, accept_unverified)
    if path is None:
        place = from_flag if from_flag is not None else home
        command = this.command(home.parent, this.file(PACKED.get(name, name)))
        missing = ", ".join(str(this.file(part)) for part in PARTS.get(name, (name,)))
        raise DatasetError(f"{place}: no {missing}; place it there ({this.placing(home.parent)}), or run: {command}")
    parts = [(path.with_name(part), part) for part in PARTS[name]] if name in PARTS else [(path, name)]
    return path, [_check(part, called, accept_unverified) for part, called in parts][0]


def _check(path: Path, name: str, accept: bool) -> str:
    """The sha256 of a checked file. The message of a wrong one must not say that it is fetched again: nothing is."""
    return check_file(path, dataclasses.replace(entry(NAME).file(name), urls=()), accept).sha256


def _unpack(home: Path, name: str, accept: bool) -> Path:
    packed, target, parts = home / PACKED[name], home / name.removesuffix(".ckpt"), PARTS.get(name, (name,))
    with locked(home):
        if not is_there(target / name):
            _check(packed, packed.name, accept)
            wanted = {f"{folder}{part}": part for part in parts for folder in ("", "./")}
            if set(archive.extract(packed, target, MOST_BYTES, wanted.get)) != set(parts):
                lacks = " and ".join(parts)
                raise DatasetError(f"{packed}: holds no {lacks}; it is another archive: delete it and {target}")
    return target / name


def get(name: str, root: Path | None = None, offline: bool | None = None) -> Path:
    """Downloads one file of the manifest into data/weights, or returns the one that is there."""
    this = entry(NAME)
    if name not in [f.name for f in this.files]:
        raise DatasetError(f"unknown file {name!r}: choose {', '.join(f.name for f in this.files)}")
    return fetch(this, this.file(name), (DATA_ROOT if root is None else root) / NAME, offline)


def prepare(root: Path | None, accept: bool) -> None:
    """Checks the files that are there and prints their digests.

    Raises:
      DatasetError: none is there, or one is another file.
    """
    home, missing = places(root, NAME)[0], True
    for file in (*entry(NAME).files, *entry(NAME).contents):
        path = find_file([file.name, f"{file.name.partition('.ckpt')[0]}/{file.name}"], [home])
        if path is not None:
            checked = check_file(path, file, accept)
            missing = False
            known = "verified" if checked.verified else "UNVERIFIED (digest differs from the manifest's)"
            print(f"{file.name}: sha256 {checked.sha256}, {known if file.digest.algorithm else 'no published digest'}")
    if missing:
        command = f"{entry(NAME).command(home.parent)} FILE (--help names the files)"
        raise DatasetError(f"{home}: no weights; {entry(NAME).placing(home.parent)}; or run: {command}")


if __name__ == "__main__":
    from datasets.cli import main

    raise SystemExit(main(NAME))
