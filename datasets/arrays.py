"""Arrays that are large or slow to decode: decoded once into a file; a large one is memory-mapped from there."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from datasets.core import DatasetError
from datasets.fetch import locked

# Above this many bytes an array of images lives in a file.
MAPPED_ABOVE = 512 << 20


def build(
    cache: Path, shape: tuple[int, ...], chunks: Callable[[], Iterator[np.ndarray]], slow: bool = False
) -> np.ndarray:
    """An uint8 array put together from chunks along its first axis, without a second copy in memory.

    Args:
      cache: file of a large or slow array; its name must identify what it is decoded from.
      shape: shape of the whole.
      chunks: called if the array has to be decoded; yields uint8 [n, ...] pieces in order.
      slow: decoding takes so long that a small array is stored as well.

    Returns:
      An array in memory up to MAPPED_ABOVE bytes, else a read-only memory map of `cache`; an array in memory too
      if the data folder cannot be written to.

    Raises:
      DatasetError: disk full and the array is large, or the chunks do not add up to `shape`.
    """
    large = int(np.prod(shape, dtype=np.int64)) > MAPPED_ABOVE
    in_file = (large or slow) and (cache.is_file() or _stored(cache, shape, chunks, large))
    return _from_file(cache, shape, large) if in_file else _in_memory(shape, chunks(), cache.name)


def _stored(cache: Path, shape: tuple[int, ...], chunks: Callable[[], Iterator[np.ndarray]], large: bool) -> bool:
    """Decodes into the file; False if the folder cannot be written to, or has no room for a small array."""
    if not os.access(next(p for p in cache.parents if p.exists()), os.W_OK):
        return False
    try:
        with locked(cache.parent):
            if not cache.is_file():
                _write(cache, shape, chunks())
    except DatasetError as error:
        if large or not isinstance(error.__cause__, OSError):
            raise
        print(f"{error}; the images are decoded into memory, at each run", file=sys.stderr)
        return False
    return True


def _from_file(cache: Path, shape: tuple[int, ...], mapped: bool) -> np.ndarray:
    try:
        array: np.ndarray = np.load(cache, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{cache}: cannot be read ({error}); delete it and run the same command again") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise DatasetError(f"{cache}: holds {array.dtype} {array.shape}, expected uint8 {shape}; delete it")
    return array


def _in_memory(shape: tuple[int, ...], chunks: Iterator[np.ndarray], what: str) -> np.ndarray:
    out = np.empty(shape, np.uint8)
    done = 0
    for chunk in chunks:
        out[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done != shape[0]:
        raise DatasetError(f"{what}: {done} images came, expected {shape[0]}")
    return out


def _write(cache: Path, shape: tuple[int, ...], chunks: Iterator[np.ndarray]) -> None:
    # Written with write(), not through a map: on a full disk a map kills the process, write() raises.
    partial = cache.with_name(f".{cache.name}.partial")
    print(f"{cache}: decoding {shape[0]:,} images once; later runs read them there", file=sys.stderr)
    try:
        with open(partial, "wb") as out:
            np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
            done = 0
            for chunk in chunks:
                out.write(np.ascontiguousarray(chunk, np.uint8).data)
                done += len(chunk)
            if done != shape[0]:
                raise DatasetError(f"{cache.name}: {done} images came, expected {shape[0]}")
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, cache)
    except OSError as error:
        need = f"; it needs {int(np.prod(shape, dtype=np.int64)):,} bytes" if error.errno == errno.ENOSPC else ""
        raise DatasetError(f"{cache}: cannot be written ({error.strerror}){need}") from error
    finally:
        partial.unlink(missing_ok=True)
