"""Reads files that nobody vouches for, and writes files that are complete under their name or not there."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from datasets.core import DatasetError

CHUNK = 1 << 20
# Nothing of ours is larger when decoded in one piece; a file that claims more is refused, not read.
MOST_BYTES = 1 << 30


@contextlib.contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Turns whatever a parser raises on a damaged or hostile file into a DatasetError that names the file.

    Parsers of untrusted bytes raise nearly anything (struct.error, ValueError, EOFError, MemoryError, ...), so
    this catches Exception; it wraps parsing only, never our own logic.
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        detail = re.sub(r" ?<_io\.[^>]*>", "", str(error))[:200] or "no detail"  # Pillow quotes the stream it reads
        raise DatasetError(f"{what}: damaged or not what it should be ({type(error).__name__}: {detail})") from error


def read_bounded(path: Path, limit: int | None) -> bytes:
    """Reads a whole file, decompressed if its name ends in .gz; at most `limit` bytes are in memory.

    Raises:
      DatasetError: unreadable, damaged, or larger than `limit` (MOST_BYTES if that is None).
    """
    limit = MOST_BYTES if limit is None else limit
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
        with opened as stream:
            raw = stream.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # only downloads are compressed
        raise DatasetError(f"{path}: damaged ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(raw) > limit:
        raise DatasetError(f"{path}: holds more than the {limit:,} bytes expected; not read any further")
    return raw


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Gives a partial file to write, then moves it to `path`: a reader sees the old file or the new one, never half."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    with _replacing(path) as partial:
        partial.write_bytes(text.encode())


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, atomically."""
    with _replacing(target) as partial:
        shutil.copyfile(source, partial)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON, atomically; what JSON does not know is written as its str."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")
