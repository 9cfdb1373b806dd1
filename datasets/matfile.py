"""Reads one variable of a MATLAB 5 file: a numeric array piece by piece, or a small table of cells and structs whole.

scipy.io.loadmat needs memory for the decompressed array and its transposed copy: 3.2 GB for the largest SVHN file. Here
one chunk at a time is in memory. Also, loadmat is not safe with hostile files: a cell array that claims more cells than
it has ends the process. This reader supports only numbers, texts, cells and structs, little endian.

Source: the published MAT-file format (version 5): 128 bytes of header, then elements of type, length, data.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from datasets.core import DatasetError
from datasets.files import CHUNK, reading

COMPRESSED, MATRIX = 15, 14
STORAGE = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8",
}  # fmt: skip
CELL, STRUCT, CHAR = 1, 2, 4
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800
TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
MOST_TABLE_BYTES = 256 << 20
MOST_DEPTH = 8
# numbers in file order, a text, the cells, or of a struct array each field's values
Value = np.ndarray | str | list["Value"] | dict[str, list["Value"]]


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
        """Type and length of the next sub-element, and its data if they are packed into the tag itself."""
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


def _header(element: _Element) -> tuple[int, tuple[int, ...], str]:
    """Flags, size and name, with which every matrix begins."""
    _, flags_raw = element.small(8)
    (flags,) = struct.unpack("<I", flags_raw[:4])
    _, dims_raw = element.small(4 * 16)
    dims = struct.unpack(f"<{len(dims_raw) // 4}i", dims_raw)
    if any(d < 0 for d in dims):
        raise ValueError(f"an array of size {dims}")
    _, name = element.small(256)
    return flags, dims, name.decode("latin-1")


def _storage(kind: int, length: int, dims: tuple[int, ...]) -> np.dtype:
    if kind not in STORAGE:
        raise ValueError(f"an array of storage type {kind}")
    dtype = np.dtype(STORAGE[kind])
    if math.prod(dims) * dtype.itemsize != length:
        raise ValueError(f"{length} bytes for an array of size {dims}")
    return dtype


def _variable(element: _Element) -> Variable | None:
    kind, _, _ = element.tag()
    if kind != MATRIX:
        return None
    flags, dims, name = _header(element)
    if flags & 0xFF not in NUMERIC_CLASSES or flags & COMPLEX:
        return None
    storage, length, packed = element.tag()
    dtype = _storage(storage, length, dims)
    if packed is not None:
        element = _Element(io.BytesIO(packed), length, False)
    return Variable(name, dims, dtype, element, math.prod(dims))


def _elements(path: Path, file: IO[bytes]) -> Iterator[_Element]:
    """The variables of a file, from front to back, each before its own tag."""
    header = file.read(128)
    if len(header) < 128 or header[124:128] != b"\x00\x01IM":
        raise DatasetError(f"{path}: not a MATLAB 5 file (little endian)")
    while tag := file.read(8):
        kind, length = struct.unpack("<II", tag)
        start = file.tell()
        if kind == MATRIX:
            file.seek(start - 8)
            yield _Element(file, length + 8, False)
        elif kind == COMPRESSED:
            yield _Element(file, length, True)
        file.seek(start + length)


@contextlib.contextmanager
def variable(path: Path, name: str) -> Iterator[Variable]:
    """Opens the numeric variable `name` of a file; its data are read inside the `with`.

    Raises:
      DatasetError: not such a file, damaged, or no such variable; also if reading its data fails.
    """
    with reading(path), open(path, "rb") as file:
        for element in _elements(path, file):
            current = _variable(element)
            if current and current.name == name:
                yield current
                return
        raise DatasetError(f"{path}: holds no array named {name!r}")


def table(path: Path, name: str) -> Any:
    """The variable `name`, whatever it nests, in memory.

    Returns:
      Numbers as a flat array, a text as str, a cell array as list, a struct array as field -> list; in file order.

    Raises:
      DatasetError: not such a file, damaged, of more than MOST_TABLE_BYTES, or no such variable.
    """
    with reading(path), open(path, "rb") as file:
        for element in _elements(path, file):
            current, value = _matrix(element, 0, name)
            if current == name and value is not None:
                return value
        raise DatasetError(f"{path}: holds no variable named {name!r}")


def _matrix(element: _Element, depth: int, wanted: str | None = None) -> tuple[str, Value | None]:
    """Name and value of the next matrix; the value is None if another name is wanted."""
    kind, length, _ = element.tag()
    if kind != MATRIX or length > MOST_TABLE_BYTES or depth > MOST_DEPTH:
        raise ValueError(f"an element of type {kind} and {length} bytes, {depth} deep")
    if not length:
        return "", np.empty(0)
    inner = _Element(io.BytesIO(element.read(length)), length, False)
    flags, dims, name = _header(inner)
    if wanted not in (None, name):
        return name, None
    return name, _value(inner, flags, dims, depth)


def _value(element: _Element, flags: int, dims: tuple[int, ...], depth: int) -> Value:
    count, kind = math.prod(dims), flags & 0xFF
    if kind == CELL:  # each takes some of the data, so that a claim ends where they do
        return [_inside(element, depth) for _ in range(count)]
    if kind == STRUCT:
        (width,) = struct.unpack("<i", element.small(4)[1])
        names = element.small(1 << 16)[1]
        if width < 1 or count > element.left:
            raise ValueError(f"{count} structs with field names of {width} bytes")
        fields = [names[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), width)]
        rows = [[_inside(element, depth) for _ in fields] for _ in range(count)]
        return {field: [row[i] for row in rows] for i, field in enumerate(fields)}
    storage, data = element.small(element.left)
    if kind == CHAR and storage in TEXTS:
        return data.decode(TEXTS[storage])
    if kind not in NUMERIC_CLASSES or flags & COMPLEX:
        raise ValueError(f"a variable of class {kind}")
    return np.frombuffer(data, _storage(storage, len(data), dims))


def _inside(element: _Element, depth: int) -> Value:
    value = _matrix(element, depth + 1)[1]
    assert value is not None  # nothing was asked for by name
    return value
