"""TFRecord files of `tf.train.Example`, read and written without TensorFlow, with both checksums.

A record is: uint64 length, uint32 masked CRC-32C of these 8 bytes, payload, uint32 masked CRC-32C of the payload, all
little endian. The payload is a protobuf: Example.1 = Features, Features.1 = map entries (1 key, 2 Feature),
Feature.1/2/3 = bytes/float/int64 list, values in field 1, packed or not. Source: TensorFlow's
lib/io/record_writer.h and example.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from reproduction.runtime.run_folder import UserError, shown

MAX_RECORD_BYTES = 1 << 26  # a damaged length must not ask for the whole memory
_BLOCK = 1024  # bytes that one table look-up step covers
_OFFSETS = np.arange(_BLOCK - 1, -1, -1) * 256
Value = list[bytes] | np.ndarray


@cache
def _tables() -> np.ndarray:
    """uint32 [_BLOCK, 256]: contribution of a byte to the CRC, by its distance from the block's end. 1 MB."""
    single = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        single = np.where(single & 1, (single >> 1) ^ np.uint32(0x82F63B78), single >> 1).astype(np.uint32)
    tables = np.empty((_BLOCK, 256), np.uint32)
    tables[0] = single
    for distance in range(1, _BLOCK):
        before = tables[distance - 1]
        tables[distance] = (before >> 8) ^ single[before & 0xFF]
    return tables


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes.

    The CRC is linear over XOR, so a block's value is the XOR of one table entry per byte; the running value is
    folded into the first four bytes of the next block.
    """
    tables, state = _tables(), 0xFFFFFFFF
    values = np.frombuffer(data, np.uint8)
    at = 0
    while at < len(values):
        block = values[at : at + _BLOCK].copy()
        at += len(block)
        if len(block) < 4:  # too short to hold the running value
            for byte in block.tolist():
                state = (state >> 8) ^ int(tables[0, (state ^ byte) & 0xFF])
            continue
        block[:4] ^= np.frombuffer(struct.pack("<I", state), np.uint8)
        state = int(np.bitwise_xor.reduce(tables.ravel().take(_OFFSETS[-len(block) :] + block)))
    return state ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The checksum as files hold it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path, start: int = 0, check: bool = True) -> Iterator[tuple[int, bytes]]:
    """The payloads of a file, one at a time.

    Args:
      path: the file.
      start: byte offset of the first record wanted.
      check: verify the payload's checksum too.
    Yields:
      (byte offset of the record, payload).
    Raises:
      UserError: missing, truncated or damaged, naming file and record.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror}") from None
    with file:
        file.seek(start)
        number, at = 0, start

        def bad(reason: str) -> UserError:
            position = f"record {number}" if not start else f"record at byte {at}"
            return UserError(f"{shown(path)}: {position}: {reason}; the file is damaged, fetch it again")

        while head := file.read(12):
            if len(head) < 12:
                raise bad("truncated length")
            length, crc = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != crc:
                raise bad("checksum of the length does not match")
            if length > MAX_RECORD_BYTES:
                raise bad(f"{length} bytes long, more than {MAX_RECORD_BYTES}")
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise bad("truncated")
            if check and masked_crc(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
                raise bad("checksum of the content does not match")
            yield at, body[:-4]
            at += 16 + length
            number += 1


def count(path: Path) -> int:
    """Counts the records of a file by their lengths alone; reading them finds out whether they are whole."""
    records = 0
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            file.seek(struct.unpack("<Q", head)[0] % (1 << 62) + 8, 1)  # a damaged length may be anything
            records += 1
    return records


def frame(payload: bytes) -> bytes:
    """A payload as the record that a file holds."""
    head = struct.pack("<Q", len(payload))
    return head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]  # IndexError past the end
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("number of more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """(field number, wire type, value) of one message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        value: bytes | int
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("field longer than its message")
        yield tag >> 3, wire, value


def _message(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("number where a message belongs")
    return value


def _list(kind: int, data: bytes) -> Value:
    """Values of a bytes (1), float (2) or int64 (3) list."""
    values = [(wire, value) for number, wire, value in _fields(data) if number == 1]
    if kind == 1:
        return [_message(value) for _, value in values]
    if kind == 2:
        return np.concatenate([np.frombuffer(_message(value), "<f4") for _, value in values] or [np.empty(0, "<f4")])
    numbers: list[int] = []
    for _, value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            numbers.append(number)
    return np.array(numbers, np.uint64).astype(np.int64)


def parse_example(payload: bytes) -> dict[str, Value]:
    """Features of a `tf.train.Example`: lists of bytes, float32 arrays or int64 arrays.

    Raises:
      ValueError: no such message.
    """
    try:
        out: dict[str, Value] = {}
        for number, _, features in _fields(payload):
            for inner, _, entry in _fields(_message(features)) if number == 1 else ():
                if inner != 1:
                    continue
                parts = {n: _message(v) for n, _, v in _fields(_message(entry))}
                for kind, _, data in _fields(parts.get(2, b"")):
                    if kind in (1, 2, 3):
                        out[parts[1].decode()] = _list(kind, _message(data))
        return out
    except (IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"not a tf.train.Example ({type(error).__name__})") from None


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(data)) + data


def build_example(features: Mapping[str, Value]) -> bytes:
    """Serializes a `tf.train.Example` as TensorFlow packs it: float arrays as float lists, integers as int64 lists."""
    entries = []
    for key, value in sorted(features.items()):
        if isinstance(value, list):
            data = _field(1, b"".join(_field(1, item) for item in value))
        elif value.dtype.kind == "f":
            data = _field(2, _field(1, value.astype("<f4").tobytes()))
        else:
            numbers = b"".join(_number(int(item) & 0xFFFFFFFFFFFFFFFF) for item in value)
            data = _field(3, _field(1, numbers))
        entries.append(_field(1, _field(1, key.encode()) + _field(2, data)))
    return _field(1, b"".join(entries))
