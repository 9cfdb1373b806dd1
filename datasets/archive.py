"""Takes files out of an archive that nobody vouches for.

Nothing is unpacked in place: members go to a hidden folder next to the target, which gets its own name in one step
when all are there. Links, devices, absolute paths, `..`, doubled names and archives that unpack to more than they
should are refused, whoever made them.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from datasets.core import DatasetError
from datasets.files import CHUNK, reading

Opener = Callable[[Path], IO[bytes]]
OPENERS: dict[str, Opener] = {
    ".tar": lambda path: open(path, "rb"),
    ".tar.gz": lambda path: cast(IO[bytes], gzip.open(path, "rb")),
    ".tgz": lambda path: cast(IO[bytes], gzip.open(path, "rb")),
    ".tar.xz": lambda path: cast(IO[bytes], lzma.open(path, "rb")),
    ".tar.bz2": lambda path: cast(IO[bytes], bz2.open(path, "rb")),
}


class _Bounded:
    """A stream that refuses to hand out more than `limit` bytes in all (tar headers included)."""

    def __init__(self, stream: IO[bytes], limit: int, name: str) -> None:
        self.stream, self.left, self.name = stream, limit, name

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left + 1:
            size = self.left + 1
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise DatasetError(f"{self.name}: unpacks to more than it should; a decompression bomb or another file")
        return block


def safe_name(name: str, archive: str) -> PurePosixPath:
    """The member's path if it stays inside the target folder.

    Raises:
      DatasetError: empty, absolute, with `..`, a drive, a backslash or a control character.
    """
    path = PurePosixPath(name)
    bad = not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    if bad or not path.parts or any(ord(c) < 32 for c in name):
        raise DatasetError(f"{archive}: member {name!r} would leave the target folder; nothing was unpacked")
    return path


def _tar_members(path: Path, opener: Opener, limit: int) -> Iterator[tuple[str, IO[bytes]]]:
    with opener(path) as stream:
        bounded = cast(Any, _Bounded(stream, limit, path.name))
        with tarfile.open(fileobj=bounded, mode="r|") as tar:
            for member in tar:
                if member.isdir() and not PurePosixPath(member.name).parts:
                    continue  # `./`, with which `tar -c .` begins
                safe_name(member.name, path.name)
                if member.isdir():
                    continue
                if not member.isreg():
                    raise DatasetError(f"{path.name}: member {member.name!r} is a link or a device, not a file")
                yield member.name, cast(IO[bytes], tar.extractfile(member))


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir() and not PurePosixPath(info.filename).parts:
                continue  # `./`, as in a tar
            safe_name(info.filename, path.name)
            if info.is_dir():
                continue
            if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                raise DatasetError(f"{path.name}: member {info.filename!r} is a link or a device, not a file")
            with archive.open(info) as stream:
                yield info.filename, stream


def extract(path: Path, target: Path, limit: int, wanted: Callable[[str], str | None]) -> list[str]:
    """Unpacks chosen members of a .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip into a new folder, all or nothing.

    Args:
      path: the archive.
      target: the folder to make; missing or empty.
      limit: the most bytes the archive may unpack to, headers and unwanted members included.
      wanted: the file name (relative to `target`) for a member's name, or None to pass it over.

    Returns:
      The names written.

    Raises:
      DatasetError: damaged, hostile or oversized archive, disk full. `target` is then as it was before.
    """
    opener = next((o for suffix, o in OPENERS.items() if path.name.lower().endswith(suffix)), None)
    if opener is None and path.suffix.lower() != ".zip":
        raise DatasetError(f"{path.name}: not an archive of a known kind ({', '.join(OPENERS)}, .zip)")
    unpacking = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)
    written: list[str] = []
    names: set[str] = set()
    try:
        unpacking.mkdir(parents=True)
        with reading(path):
            members = _tar_members(path, opener, limit) if opener else _zip_members(path)
            left = limit
            for name, stream in members:
                out_name = wanted(name)
                if out_name is None:
                    continue
                if out_name in names:
                    raise DatasetError(f"{path.name}: member {name!r} occurs twice")
                names.add(out_name)
                written.append(out_name)
                left = _write(stream, unpacking / safe_name(out_name, path.name), left, path.name)
        os.sync()  # once: to wait for each of 20,000 images takes minutes
        os.replace(unpacking, target)  # an empty folder is replaced, one that holds something is an error
    except OSError as error:
        raise DatasetError(f"{target}: cannot unpack {path.name} there ({error.strerror})") from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    return written


def _write(stream: IO[bytes], path: Path, left: int, archive: str) -> int:
    with _writing(path, archive):
        path.parent.mkdir(parents=True, exist_ok=True)
        out = open(path, "xb")
    with out:
        while block := stream.read(CHUNK):  # what this raises is the archive's fault, not the disk's
            left -= len(block)
            if left < 0:
                raise DatasetError(f"{archive}: unpacks to more than it should; a decompression bomb or another file")
            with _writing(path, archive):
                out.write(block)
        with _writing(path, archive):
            out.close()
    return left


@contextlib.contextmanager
def _writing(path: Path, archive: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path.parent}: cannot unpack {archive} there ({error.strerror})") from error
