"""The typed view of manifest.toml: what files a data set has and how each is recognised."""

from __future__ import annotations

import functools
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.core import DATA_ROOT, DatasetError
from datasets.files import reading

PATH = Path(__file__).with_name("manifest.toml")
ALGORITHMS = ("md5", "sha256", "sha256-prefix")


@dataclass(frozen=True)
class Digest:
    """How a file is recognised.

    Attributes:
      algorithm: one of ALGORITHMS, or None if no digest is known.
      value: hexadecimal digits, or None.
      evidence: "computed...", "published by X" or "unknown...".
    """

    algorithm: str | None
    value: str | None
    evidence: str

    def __str__(self) -> str:
        """For messages: `md5 0123...`, or that it is unknown."""
        return f"{self.algorithm} {self.value}" if self.algorithm else "digest unknown"


@dataclass(frozen=True)
class File:
    """One file: its name, its size in bytes (None if unknown), its digest, and its addresses, in order."""

    name: str
    bytes: int | None
    digest: Digest
    urls: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For messages: what a file placed by hand must be."""
        size = "size unknown" if self.bytes is None else f"{self.bytes:,} bytes"
        return f"{self.name} ({size}, {self.digest})"


@dataclass(frozen=True)
class Entry:
    """One data set of the manifest; `files` are downloaded, `contents` are what is read."""

    name: str
    title: str
    classes: int
    train: int
    test: int
    shape: tuple[int, ...]
    homepage: str
    licence: str
    citation: str
    by_hand: str
    files: tuple[File, ...]
    contents: tuple[File, ...]

    def file(self, name: str) -> File:
        """The file or content of that name."""
        return next(f for f in self.files + self.contents if f.name == name)

    def placing(self, base: Path) -> str:
        """Where files placed by hand belong, for messages; `base` is the data folder."""
        return self.by_hand.replace("DATA", str(base))

    def command(self, base: Path, file: File | None = None) -> str:
        """The command that fetches the set, or one `file` of the weights, for messages; `base` is the data folder."""
        words = [f"python -m datasets.{self.name}"]
        if file and self.name == "weights":
            words.append(file.name)
        if base != DATA_ROOT:
            words += ["--root", shlex.quote(str(base))]
        return " ".join(words)

    @property
    def download_bytes(self) -> int:
        """What a full download transfers, in bytes; files of unknown size count nothing."""
        return sum(f.bytes or 0 for f in self.files if f.urls)


def _digest(table: dict[str, Any], file_name: str) -> Digest:
    algorithm, value, evidence = table.get("algorithm"), table.get("value"), table["evidence"]
    known = algorithm in ALGORITHMS and bool(value)
    if known == evidence.startswith("unknown") or not evidence.startswith(("computed", "published by ", "unknown")):
        raise DatasetError(f"{PATH.name}: {file_name}: digest {algorithm} {value} with evidence {evidence!r}")
    return Digest(algorithm, value, evidence)


def _file(table: dict[str, Any], mirrors: list[str]) -> File:
    name, size = table["name"], table.get("bytes")
    urls = table.get("urls", [mirror + name for mirror in mirrors])
    if name in ("", "..") or PurePosixPath(name).name != name or "\\" in name or not isinstance(size, int | None):
        raise DatasetError(f"{PATH.name}: {name!r}: not the name of a file, or its size is no whole number: {size!r}")
    return File(name, size, _digest(table["digest"], name), tuple(urls))


@functools.lru_cache
def _read(path: Path) -> dict[str, Entry]:
    with reading(path):
        return _entries(tomllib.loads(path.read_text(encoding="utf-8-sig")))


def _entries(tables: dict[str, Any]) -> dict[str, Entry]:
    entries = {}
    for name, table in tables.items():
        texts = {k: str(table[k]) for k in ("title", "homepage", "licence", "citation", "by_hand")}
        entries[name] = Entry(
            name=name,
            shape=tuple(table["shape"]),
            files=tuple(_file(f, table["mirrors"]) for f in table.get("file", [])),
            contents=tuple(_file(f, []) for f in table.get("content", [])),
            classes=int(table["classes"]),
            train=int(table["train"]),
            test=int(table["test"]),
            **texts,
        )
    return entries


def entries() -> dict[str, Entry]:
    """Every data set of the manifest, by name, in the manifest's order."""
    return _read(PATH)


def entry(name: str) -> Entry:
    """One data set of the manifest."""
    return entries()[name]
