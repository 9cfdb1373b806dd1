"""Reads one variable of a MATLAB 5 file piece by piece, decompressing as it goes.

scipy.io.loadmat holds the decompressed array and its transposed copy: 3.2 GB for the largest SVHN file. Here
a chunk at a time is in memory. Only what such files need is understood: numeric arrays, little endian.

Source: the published MAT-file format (version 5): 128 bytes of header, then elements of type, length, data.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from datasets.core import DatasetError
from datasets.verify import CHUNK, reading

COMPRESSED, MATRIX = 15, 14
STORAGE = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8",
}  # fmt: skip
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800


class _Element:
    """The bytes of one top-level element, decompressed if need be, read from front to back."""

    def __init__(self, file: IO[bytes], length: int, compressed: bool) -> None:
        self.file, self.left = file, length
        self.inflate = zlib.decompressobj() if compressed else None

    def _raw(self, size: int) -> bytes:
        block = self.file.read(min(size, self.left))
        self.left -= len(block)
        return block

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; a shorter rest is an error, so a header cannot promise more than there is."""
        parts, missing = [], size
        while missing:
            if self.inflate is None:
                block = self._raw(missing)
                ended = not block
            else:
                source = self.inflate.unconsumed_tail or self._raw(CHUNK)
                block = self.inflate.decompress(source, missing)
                ended = not block and not source
            if ended:
                raise EOFError("the data end too early")
            parts.append(block)
            missing -= len(block)
        return b"".join(parts)

    def tag(self) -> tuple[int, int, bytes | None]:
        """Type and length of the next sub-element, and its data where they are packed into the tag itself."""
        head = self.read(8)
        kind, length = struct.unpack("<II", head)
        if kind >> 16:
            if kind >> 16 > 4:
                raise ValueError("a small element of more than four bytes")
            return kind & 0xFFFF, kind >> 16, head[4 : 4 + (kind >> 16)]
        return kind, length, None

    def small(self, most: int) -> tuple[int, bytes]:
        """Type and data of the next sub-element, which must be short; its padding is passed over."""
        kind, length, data = self.tag()
        if data is None:
            if length > most:
                raise ValueError(f"a header field of {length} bytes")
            data = self.read(length)
            self.read(-length % 8)
        return kind, data


@dataclass
class Variable:
    """A numeric array in the file, before its data are read: `dims` in MATLAB's order, the first varying fastest."""

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype
    element: _Element
    count: int

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """The values in file order, `size` of them at a time (the last time what remains)."""
        left = self.count
        while left:
            take = min(size, left)
            yield np.frombuffer(self.element.read(take * self.dtype.itemsize), self.dtype)
            left -= take


def _variable(element: _Element) -> Variable | None:
    kind, _, _ = element.tag()
    if kind != MATRIX:
        return None
    _, flags_raw = element.small(8)
    (flags,) = struct.unpack("<I", flags_raw[:4])
    _, dims_raw = element.small(4 * 16)
    dims = struct.unpack(f"<{len(dims_raw) // 4}i", dims_raw)
    _, name = element.small(256)
    if flags & 0xFF not in NUMERIC_CLASSES or flags & COMPLEX:
        return None
    storage, length, packed = element.tag()
    if storage not in STORAGE or any(d < 0 for d in dims):
        raise ValueError(f"an array of storage type {storage} and size {dims}")
    dtype = np.dtype(STORAGE[storage])
    count = 1
    for d in dims:
        count *= d
    if count * dtype.itemsize != length:
        raise ValueError(f"{length} bytes for an array of size {dims}")
    if packed is not None:
        element = _Element(io.BytesIO(packed), length, False)
    return Variable(name.decode("latin-1"), dims, dtype, element, count)


@contextlib.contextmanager
def variable(path: Path, name: str) -> Iterator[Variable]:
    """Opens the numeric variable `name` of a file; its data are read inside the `with`.

    Raises:
      DatasetError: not such a file, damaged, or no such variable; also if reading its data fails.
    """
    with reading(path), open(path, "rb") as file:
        header = file.read(128)
        if len(header) < 128 or header[124:128] != b"\x00\x01IM":
            raise DatasetError(f"{path}: not a MATLAB 5 file (little endian)")
        while tag := file.read(8):
            kind, length = struct.unpack("<II", tag)
            start = file.tell()
            if kind == MATRIX:
                file.seek(start - 8)
                found = _variable(_Element(file, length + 8, False))
            elif kind == COMPRESSED:
                found = _variable(_Element(file, length, True))
            else:
                found = None
            if found and found.name == name:
                yield found
                return
            file.seek(start + length)
        raise DatasetError(f"{path}: holds no array named {name!r}")
