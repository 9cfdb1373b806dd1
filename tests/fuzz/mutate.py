"""Damage done to files: to their bytes, and inside the containers whose checksums would stop plain damage at once.

Every mutator takes (bytes, random.Random) and gives bytes; the same generator state gives the same result.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

# Numbers that length fields, counts and offsets are afraid of.
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    10**6,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**12,
    2**63 - 1,
    2**64 - 1,
)
TEXTS = (
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 30,
    b"9" * 5000,
    b"-0",
    b"\0",
    b"\r\n",
    b"../../up",
    b"/etc/passwd",
    b"C:\\x",
    b"%s%n",
    b"\xff\xfe",
    "٣²\u2028".encode(),
    b"[" * 3000,
    b'{"a":' * 3000,
    b"[[a]]\n",
    b",",
    b'"',
    b"'",
    b"#",
    b"true",
    b"null",
    b"__import__('os').system('true')",
    b"=" * 10,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**6,
    2**63,
    10**400,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../up",
    "/etc/passwd",
    "\0",
    "9" * 30,
    [],
    [[]],
    [None],
    [0, 0],
    ["a", 1],
    {},
    {"a": {}},
    {"name": 1},
    [[1, 2], [3]],
    list(range(40)),
)


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random) -> None:
    code = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(code)
    at = rng.randrange(len(data))
    data[at : at + size] = struct.pack(code, rng.choice(NUMBERS) & (256**size - 1))


def _shift(data: bytearray, rng: random.Random) -> None:
    """Adds a little to what may be a length field."""
    at = rng.randrange(len(data))
    data[at] = (data[at] + rng.choice((-16, -8, -2, -1, 1, 2, 8, 16))) % 256


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 4, 8, 16, 64, 256))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    part = data[at : at + rng.choice((1, 4, 16, 64, 512))]
    data[at:at] = part * rng.choice((1, 2, 50))


def _move(data: bytearray, rng: random.Random) -> None:
    a, b, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((4, 16, 64, 256))
    part = data[a : a + size]
    data[b : b + len(part)] = part


def _text(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.choice((0, 1, 4))] = rng.choice(TEXTS)


def _digits(data: bytearray, rng: random.Random) -> None:
    """Another number in the place of one that is written out."""
    places = [i for i, byte in enumerate(data[:4096]) if 0x30 <= byte <= 0x39]
    if places:
        at = rng.choice(places)
        data[at : at + 1] = rng.choice(
            ("", "-", "00", ".5", "e9", "99999", "9" * 25, str(rng.choice(NUMBERS)))
        ).encode()


STEPS = (_flip, _flip, _byte, _number, _number, _shift, _truncate, _delete, _repeat, _move, _text, _digits)


def flat(data: bytes, rng: random.Random) -> bytes:
    """One to four steps of damage to the bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if out:
            rng.choice(STEPS)(out, rng)
    return bytes(out)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def json_value(data: bytes, rng: random.Random) -> bytes:
    """One value or key of a JSON document (or of one of its lines) replaced, removed or added."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return flat(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _odd(value, rng)
    lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _odd(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        action = rng.random()
        if action < 0.15:
            value.pop(key)
        elif action < 0.25:
            value[rng.choice(("x", "", "../up", key + "_"))] = value.pop(key)
        else:
            value[key] = _odd(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.3:
            value[at : at + 1] = rng.choice(([], [value[at]] * 2))
        else:
            value[at] = _odd(value[at], rng)
        return value
    return copy.deepcopy(rng.choice(VALUES))


def zip_member(data: bytes, rng: random.Random) -> bytes:
    """One member of a zip (npz, pt) damaged, renamed, doubled or swapped with another; checksums computed again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            members = [(info.filename, packed.read(info)) for info in packed.infolist()]
    except Exception:  # already damaged
        return flat(data, rng)
    if not members:
        return flat(data, rng)
    at, other = rng.randrange(len(members)), rng.randrange(len(members))
    name, body = members[at]
    action = rng.random()
    if action < 0.7:
        # an array's header is short and matters most
        head = body[:128]
        members[at] = (name, flat(head, rng) + body[128:] if rng.random() < 0.6 else flat(body, rng))
    elif action < 0.8:
        members[at], members[other] = (name, members[other][1]), (members[other][0], body)
    elif action < 0.9:
        members[at] = (rng.choice(("../up.npy", "/etc/x", name + "x", name.upper(), "a\\b", members[other][0])), body)
    else:
        members.insert(other, (name, body)) if rng.random() < 0.5 else members.pop(at)
    return zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members; names may stand twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        for name, body in members:
            info = zipfile.ZipInfo(name)  # a fixed date, so that the same input is the same bytes
            info.compress_type = method
            packed.filelist = [item for item in packed.filelist]
            packed.NameToInfo.pop(name, None)  # no warning about a doubled name
            packed.writestr(info, body)
    return out.getvalue()


def gzipped(data: bytes, rng: random.Random) -> bytes:
    """Damage below a gzip layer."""
    try:
        return gzip.compress(flat(gzip.decompress(data), rng), 1, mtime=0)
    except Exception:
        return flat(data, rng)


def tar_member(data: bytes, rng: random.Random) -> bytes:
    """A tar whose members got other names, kinds, sizes or contents."""
    packed = data[:2] == b"\x1f\x8b"
    out = io.BytesIO()
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
            members = old.getmembers()
            chosen = rng.choice(members)
            for member in members:
                file = old.extractfile(member) if member.isreg() else None
                body = file.read() if file else b""
                if member is chosen:
                    action = rng.random()
                    if action < 0.4:
                        member.name = rng.choice(
                            ("../up", "/tmp/up", "a/../../up", "a\\up", "", "x\ny", member.name + "/")
                        )
                    elif action < 0.7:
                        member.type = rng.choice(
                            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"?")
                        )
                        member.linkname = rng.choice(("../up", "/etc/passwd", member.name))
                    else:
                        body = flat(body, rng) if body else body
                member.size = len(body)
                new.addfile(member, io.BytesIO(body))
                if member is chosen and rng.random() < 0.2:
                    new.addfile(member, io.BytesIO(body))
    except Exception:
        return flat(data, rng)
    return gzip.compress(out.getvalue(), 1, mtime=0) if packed else out.getvalue()


def mat_element(data: bytes, rng: random.Random) -> bytes:
    """One compressed element of a MATLAB 5 file damaged below the compression."""
    spans, at = [], 128
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 15 and at + 8 + length <= len(data):
            spans.append((at, length))
        at += 8 + length
    if not spans:
        return flat(data, rng)
    at, length = rng.choice(spans)
    try:
        body = zlib.decompress(data[at + 8 : at + 8 + length])
    except zlib.error:
        return flat(data, rng)
    head = body[:160]  # flags, sizes, name
    body = flat(head, rng) + body[160:] if rng.random() < 0.7 else flat(body, rng)
    packed = zlib.compress(body, 1)
    return data[:at] + struct.pack("<II", 15, len(packed)) + packed + data[at + 8 + length :]


def records(data: bytes, rng: random.Random) -> bytes:
    """One record of a TFRecord file damaged, its checksums computed again."""
    from subclass_torch.yt8m.tfrecord import frame

    payloads, at = [], 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        payloads.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    if not payloads:
        return flat(data, rng)
    at = rng.randrange(len(payloads))
    head = payloads[at][:64]
    whole = rng.random() < 0.3
    payloads[at] = flat(payloads[at], rng) if whole else flat(head, rng) + payloads[at][64:]
    return b"".join(frame(payload) for payload in payloads)
