"""Which data are these? Quickly by names, sizes and times; for certain by contents, which are read once.

Every set has a fingerprint that needs no file's content. While it stays the same, so do the data. Where it
differs, the digests of what was read decide: a file that was only touched leaves the data what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.core import DATA_ROOT, DatasetError
from datasets.fetch import places
from datasets.files import write_json
from datasets.manifest import entries, entry

CACHED_ABOVE = 64 << 20  # bytes; the digest of less is computed anew each time
MOST_CACHED = 500  # digests that the table keeps
TABLE = "folder/digests.json"  # below the data folder: fingerprint -> digest of the contents


class Seen(NamedTuple):
    """What is known of a data set without reading it.

    Attributes:
      place: the resolved folder of folder:PATH, or "" (the data folder may move).
      fingerprint: see `fingerprint`; "" if no file is there.
    """

    place: str
    fingerprint: str


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in a fixed order, hidden folders left out; links are followed, each folder once."""
    entered = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(top)
        known = (status.st_dev, status.st_ino) in entered
        entered.add((status.st_dev, status.st_ino))
        folders[:] = [] if known else sorted(name for name in folders if not name.startswith("."))
        yield from (Path(top, name) for name in sorted(files) if name != ".lock" and not known)


def files_of(name: str, root: Path | None = None) -> list[Path]:
    """The files that a data set's name means now, or more than these: nothing is read, fetched or checked.

    Args:
      name: a set of the manifest, folder:PATH, or csv:NAME (lists and images in the data folder).
      root: the data folder.
    """
    base = DATA_ROOT if root is None else root
    kind, _, target = name.partition(":")
    if kind == "folder":
        return list(_below(Path(target)))
    if kind == "csv":
        return [*_below(base / target), *_below(base / f"{target}_files"), *_manifest_files(target, base)]
    return _manifest_files(name, base)


def _manifest_files(name: str, base: Path) -> list[Path]:
    if name not in entries():
        return []
    module = importlib.import_module(f"datasets.{name}")
    if name == "imagenet":  # a folder's own time changes with what it holds; a million files are not asked
        return [path for part in ("lists", "train", "val") for path in sorted(module.folder(base).glob(f"{part}/*"))]
    if hasattr(module, "SOURCE"):
        return [path for home in places(base, *module.SOURCE.folders)[:-1] for path in _below(home)]
    this = entry(name)
    paths = (folder / file.name for folder in module.folders(base) for file in (*this.contents, *this.files))
    return [path for path in paths if path.is_file()]


def fingerprint(files: Iterable[Path]) -> str:
    """sha256 over resolved folder, name, size and times of every file; "" for no files.

    The time of the last change of a file's entry counts as well: a copy may keep the other time.
    """
    whole, folders = hashlib.sha256(), dict[Path, str]()
    count = 0
    for path in files:
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        try:
            status = path.stat()
            line = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:  # a link that leads nowhere
            line = str(error.errno)
        count += 1
        whole.update(f"{folders[path.parent]}\0{path.name}\0{line}\n".encode(errors="surrogateescape"))
    return whole.hexdigest() if count else ""


def look(name: str, root: Path | None = None) -> Seen:
    """Looks at a data set without reading it; call it before loading, so that a later change is never missed."""
    kind, _, path = name.partition(":")
    place = os.path.realpath(path) if kind == "folder" else ""
    return Seen(place, fingerprint(files_of(name, root)))


def content_digest(files: Sequence[Path], base: Path, root: Path | None = None) -> str:
    """One sha256 over names and contents of all files, in order; the contents of a large set are read once.

    Args:
      files: what counts, in order.
      base: folder to which names are relative.
      root: the data folder, which stores the digests of large sets by fingerprint.

    Raises:
      DatasetError: a file cannot be read.
    """
    try:
        if sum(path.stat().st_size for path in files) < CACHED_ABOVE:
            return _of_contents(files, base)
        key, table = fingerprint(files), (DATA_ROOT if root is None else root) / TABLE
        known = _read_table(table)
        if key not in known:
            known[key] = _of_contents(files, base)
            with contextlib.suppress(OSError):  # a data folder that cannot be written to keeps nothing
                table.parent.mkdir(parents=True, exist_ok=True)
                write_json(table, dict(list(known.items())[-MOST_CACHED:]))
        return known[key]
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _of_contents(files: Iterable[Path], base: Path) -> str:
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        line = f"{path.relative_to(base).as_posix()}\0{content}\n"
        whole.update(line.encode(errors="surrogateescape"))
    return whole.hexdigest()


def _read_table(path: Path) -> dict[str, str]:
    """The stored digests; none if the table is missing or damaged, since it can be made again."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(stored, dict) and all(isinstance(digest, str) for digest in stored.values())
    return stored if whole else {}
