"""Provides a file of the manifest: finds it on the disk, or downloads it; verifies it and moves it into place.

A download collects in `.incoming/NAME.partial` and is moved to its own name only after its digest was checked,
so a file under its own name is never half a file. One process downloads, others wait for its lock.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import filelock

from datasets.core import DATA_ROOT, DatasetError, NoNetwork
from datasets.download import DISK_TROUBLE, RangeDownloader, Unreachable
from datasets.manifest import Entry, File
from datasets.verify import check_file

_announced: set[str] = set()


def places(root: Path | None, *names: str) -> list[Path]:
    """Folders in which files may have been placed: the sub-folders `names` of the data folder, then itself."""
    base = DATA_ROOT if root is None else root
    return [base / name for name in names] + [base]


def find(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """Returns the path of the first of `names` in the first of `folders` that has one, or None."""
    return next((folder / n for folder in folders for n in names if (folder / n).is_file()), None)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates `folder` and locks it; prints a line if it has to wait for another process.

    Raises:
      DatasetError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{folder}: another process is preparing this data set; waiting for it", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be written to ({error.strerror}); see --data-dir") from error
    try:
        yield
    finally:
        lock.release()


def announce(entry: Entry, stream: TextIO | None = None) -> None:
    """Prints licence and citation to `stream` (default: stderr), once in a process."""
    if entry.name not in _announced:
        _announced.add(entry.name)
        lines = (entry.title, entry.homepage, f"licence: {entry.licence}", f"please cite: {entry.citation}")
        print("\n  ".join(lines), file=stream or sys.stderr)


def fetch(entry: Entry, file: File, folder: Path, offline: bool | None = None) -> Path:
    """Returns the path of `file` in `folder`, downloaded and verified if it is not there yet.

    A file that is there already is returned as it is; whoever reads it checks it.

    Args:
      entry: the data set.
      file: one of its files.
      folder: where the file is or goes.
      offline: whether downloads are off; None reads the environment variable DATASETS_OFFLINE.

    Raises:
      DatasetError: not there and downloads are off; no mirror gave it; disk full or folder not writable.
    """
    target = folder / file.name
    if target.is_file():
        return target
    by_hand = f"place it by hand ({entry.placing(folder.parent)})"
    if not file.urls:
        raise DatasetError(f"{entry.name}: {file} is not in {folder} and has no address; {by_hand}")
    if offline is None:
        offline = os.environ.get("DATASETS_OFFLINE", "") not in ("", "0")
    if offline:
        raise NoNetwork(
            f"{entry.name}: {file} is not in {folder} and downloads are off (DATASETS_OFFLINE or --offline); "
            f"{by_hand}, or allow them and run: {entry.command(folder.parent, file)}"
        )
    with locked(folder):
        if not target.is_file():  # Another process may have brought it while we waited for the lock.
            announce(entry)
            _download(entry, file, target, by_hand)
    return target


def _download(entry: Entry, file: File, target: Path, by_hand: str) -> None:
    incoming = target.parent / ".incoming"
    reasons = []
    unreachable = 0
    try:
        _clear(incoming, file)
        for url in file.urls:
            print(f"fetching {url}", file=sys.stderr)
            try:
                arrived = _from_mirror(url, file, incoming)
                os.replace(arrived, target)
                return
            except (ValueError, http.client.HTTPException) as error:
                reasons.append(f"{url}: {error}")
            except OSError as error:
                if error.errno in DISK_TROUBLE:
                    raise
                unreachable += isinstance(error, Unreachable)
                reasons.append(f"{url}: {error}")
    except OSError as error:
        raise DatasetError(
            f"{target}: cannot be written ({error.strerror}); run the same command again to continue the download"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            incoming.rmdir()  # stays if it holds a part that can be continued
    if unreachable == len(file.urls):
        raise NoNetwork(
            f"{entry.name}: no network, and {file.name} is not on this machine (where to put files by hand: "
            "docs/data.md); the data set mnist5k needs no download"
        )
    raise DatasetError(f"{entry.name}: could not fetch {file}: {'; '.join(reasons)}; try again, or {by_hand}")


def _clear(incoming: Path, file: File) -> None:
    """Removes what a killed process left, except parts that can be continued, of this file and of others."""
    incoming.mkdir(exist_ok=True)
    for path in incoming.iterdir():
        if path.name.startswith(".") or not path.name.endswith((".partial", ".partial.json")):
            path.unlink()
    if file.bytes is not None:
        partial = incoming / f"{file.name}.partial"
        missing = file.bytes - (partial.stat().st_size if partial.exists() else 0)
        free = shutil.disk_usage(incoming).free
        if missing > free:
            raise DatasetError(
                f"{incoming.parent / file.name}: needs {missing:,} more bytes, the disk has {free:,} free; "
                "make room or choose another folder with --data-dir"
            )


def _from_mirror(url: str, file: File, incoming: Path) -> Path:
    """Downloads into `incoming` and checks; a resumed part that turns out wrong is fetched anew once."""
    import pooch  # late: a set that is there already needs none of it

    pooch.get_logger().setLevel(logging.WARNING)
    digest = file.digest
    known = f"{digest.algorithm}:{digest.value}" if digest.algorithm in ("md5", "sha256") else None
    partial = incoming / f"{file.name}.partial"
    for _ in range(2):
        downloader = RangeDownloader(partial, file.bytes, interchangeable=digest.algorithm is not None)
        had_part = partial.exists()
        try:
            got = pooch.retrieve(url, known_hash=known, fname=file.name, path=incoming, downloader=downloader)
            if digest.algorithm is not None:
                check_file(Path(got), file)
            return Path(got)
        except ValueError as error:  # pooch's word for a wrong digest; DatasetError is one too
            (incoming / file.name).unlink(missing_ok=True)
            downloader.discard()
            if not had_part:
                raise ValueError(f"what it sends is not the file ({str(error).split(chr(10))[0][:160]})") from error
    raise AssertionError("unreachable: the second try starts without a part")
