"""Valid and planted inputs of the parsers, made here; no real data."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.fuzz.engine import CANARY
from tests.fuzz.mutate import zipped

CODE = f"__import__('sys').audit({CANARY!r})"


class Planted:
    """An object whose pickle calls a function with arguments when it is read."""

    def __init__(self, call: Any, *arguments: object):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call, self.arguments


def planted() -> list[Planted]:
    """Objects that would start a process, evaluate code or write a file."""
    import os
    import subprocess

    return [
        Planted(os.system, "true"),
        Planted(eval, CODE),
        Planted(exec, CODE),
        Planted(subprocess.Popen, ["true"]),
        Planted(open, "/tmp/fuzz-planted", "w"),
        Planted(os.mkdir, "/tmp/fuzz-planted"),
        Planted(compile, CODE, "x", "eval"),
        Planted(__import__, "os"),
    ]


def evil_pickles() -> list[bytes]:
    """Pickles in three protocols with code in them, and ones that ask for too much."""
    made = [pickle.dumps({"data": item}, protocol) for item in planted() for protocol in (0, 2, 4)]
    greedy = [
        b"\x80\x02}q\x00(U\x04dataT\xff\xff\xff\x7fx",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"(" * 5000,
        b"\x80\x02" + b"]" * 100000 + b".",
        b"\x80\x02K\x01" + b"\x85" * 100000 + b".",
        b"I" + b"9" * 100000 + b"\n.",
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x",
        b"\x80\x03C\xff",
        b"",
        b".",
        b"\x80\xff.",
    ]
    return made + greedy


def npy(array: Any) -> bytes:
    """One array as .npy; objects as pickles, for planted ones."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), allow_pickle=True)
    return out.getvalue()


def npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as .npz, without compression."""
    return zipped([(f"{name}.npy", npy(value)) for name, value in arrays.items()])


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """A .npy that claims a shape it does not hold."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 64


def evil_npy() -> list[bytes]:
    """Arrays with code in them, with headers that claim terabytes, and with headers that are no dictionary."""
    code = [npy(np.array([item], dtype=object)) for item in planted()[:4]]
    shapes = (
        "(10000000000000,)",
        "(4294967296, 4294967296, 2)",
        "(-1,)",
        "(1e3,)",
        "('a',)",
        "(True,)",
        "(3, -4)",
        "7",
    )
    claims = [header(shape) for shape in shapes]
    kinds = (
        "'|O'",
        "'V2000000000'",
        "'U999999999'",
        "'zz'",
        "[('a', '<f4'), ('b', '|O')]",
        "[('a',)]",
        CODE,
        "1",
        "None",
    )
    return [
        *code,
        *claims,
        *(header("(4,)", kind) for kind in kinds),
        header("(" * 400 + ")" * 400),
        b"\x93NUMPY\x09\x09",
        b"",
    ]


def evil_npz(names: Sequence[str]) -> list[bytes]:
    """Archives whose members are planted arrays under the right names, and bombs."""
    made = [zipped([(f"{name}.npy", body) for name in names]) for body in evil_npy()]
    bomb = zipped([(f"{name}.npy", header("(1073741824,)", "'|u1'") + bytes(1 << 22)) for name in names], 8)
    return [*made, bomb, zipped([("../x.npy", npy([1]))]), b"PK\x03\x04"]


def deep_json() -> list[bytes]:
    """JSON that is too deep, too long a number, of the wrong kind, or no text."""
    return [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 10_000,
        b"",
        b"{",
        b"\xff\xfe{\x00}\x00",
        b'{"a": 1e999999}x',
        b'"\\ud800',
    ]


def dumped(value: Any) -> bytes:
    """JSON bytes."""
    return json.dumps(value).encode()


def mat(variables: Mapping[str, Any], compressed: bool = True) -> bytes:
    """A MATLAB 5 file as SciPy writes it, but for the date in its head."""
    from scipy.io import savemat

    out = io.BytesIO()
    savemat(out, dict(variables), do_compression=compressed)
    return b"MATLAB 5.0 MAT-file".ljust(116) + out.getvalue()[116:]


def evil_mat() -> list[bytes]:
    """MATLAB files that claim gigabytes, inflate for ever, nest, or hold what is no number."""
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"

    def element(kind: int, body: bytes, length: int | None = None) -> bytes:
        return struct.pack("<II", kind, len(body) if length is None else length) + body + b"\0" * (-len(body) % 8)

    def matrix(name: bytes, dims: Sequence[int], kind: int, claimed: int, flags: int = 6, body: bytes = b"") -> bytes:
        shape = struct.pack(f"<{len(dims)}i", *dims)
        inner = element(6, struct.pack("<II", flags, 0)) + element(5, shape) + element(1, name)
        return inner + struct.pack("<II", kind, claimed) + body

    found = []
    for name in (b"y", b"X", b"labels", b"annotations", b"file_list"):
        for dims, kind, claimed in (
            ((1 << 30, 1), 9, 0xFFFFFFF8),
            ((-1, 1), 9, 8),
            ((1 << 20, 1), 2, 1 << 20),
            ((0, 0), 9, 0),
        ):
            inner = matrix(name, dims, kind, claimed)
            found += [head + element(14, inner), head + element(15, zlib.compress(element(14, inner, 1 << 31)))]
        for flags in (1, 2, 3, 4, 5, 16, 17, 0x0806, 0x10006):  # cells, structs, objects, functions, opaque, complex
            found.append(head + element(14, matrix(name, (1, 1), 14, 16, flags, b"\x0e\0\0\0\x10\0\0\0" * 4)))
    bomb = zlib.compress(bytes(1 << 26), 9)
    return [
        *found,
        head + element(15, bomb),
        head + element(14, b"", 0xFFFFFFFF),
        head,
        b"",
        b"MATLAB 7.3",
        head + b"\x0f\0",
    ]


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def evil_idx() -> list[bytes]:
    """Wrong magic numbers, and sizes whose product overflows or is not there."""
    claims = ((0xFFFFFFFF,) * 3, (1 << 31, 2, 1 << 31), (0, 28, 28), (1, 1, 0), (60000, 28, 28))
    return [struct.pack(">4I", 0x803, *shape) + bytes(784) for shape in claims] + [b"", b"\0\0\x08\x01", bytes(800)]


def tar(members: Sequence[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A gzipped tar of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(body) if kind == tarfile.REGTYPE else 0, kind, link
            packed.addfile(info, io.BytesIO(body))
    return gzip.compress(out.getvalue(), 1, mtime=0)


ESCAPES = ("../up", "/tmp/fuzz-up", "a/../../up", "a\\..\\up", "C:up", "a\nb", "..")


def evil_tar() -> list[bytes]:
    """Members that leave the folder, links, devices, doubled names, and a bomb."""
    made = [tar([("a", b"1"), (name, b"2")]) for name in ESCAPES]
    links = [
        tar([("a", b"")], kind, "../up")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    ]
    return [
        *made,
        *links,
        tar([("a", b"1"), ("a", b"2")]),
        tar([("a", bytes(1 << 24))]),
        gzip.compress(b"")[:8],
        b"",
        bytes(2000),
    ]


def evil_zip() -> list[bytes]:
    """The same for zip."""
    made = [zipped([("a", b"1"), (name, b"2")]) for name in ESCAPES]
    return [
        *made,
        zipped([("a", b"1"), ("a", b"2")]),
        zipped([("a", bytes(1 << 24))], 8),
        b"PK\x03\x04",
        b"",
        bytes(2000),
    ]


def picture(kind: str, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> bytes:
    """A small JPEG or PNG."""
    from PIL import Image

    out = io.BytesIO()
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(size[1], size[0], 3)
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    """The same picture for every EXIF orientation 1 to 8: its pixels are turned, and the block says how.

    Each 16 x 16 block has one colour, so that JPEG stores all of them alike, whatever way up.
    """
    from PIL import ExifTags, Image

    away = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    colours = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    image = Image.fromarray(colours.repeat(16, 0).repeat(16, 1))
    if orientation in away:
        image = image.transpose(Image.Transpose[away[orientation]])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    image.save(out, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


def evil_pictures() -> list[bytes]:
    """Headers that claim gigapixels, other formats, and PNG chunks that inflate."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    def png(width: int, height: int, body: bytes, extra: bytes = b"") -> bytes:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 24), 9))
    sizes = ((100_000, 100_000), (0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0x7FFFFFFF))
    return [
        *(png(w, h, zlib.compress(b"")) for w, h in sizes),
        png(8, 8, b"x", text),
        b"GIF89a" + bytes(40),
        b"",
        b"\xff\xd8\xff",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%true) (w) file\n",
    ]
