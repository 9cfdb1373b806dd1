"""TFRecord files of `tf.train.Example`, read and written without TensorFlow, with both checksums.

A record is: uint64 length, uint32 masked CRC-32C of these 8 bytes, payload, uint32 masked CRC-32C of the payload, all
little endian. Source: TensorFlow's lib/io/record_writer.h and example.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

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
    for at in range(0, len(values), _BLOCK):
        block = values[at : at + _BLOCK].copy()
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


def records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The payloads of a file, one at a time.

    Args:
      path: the file.
      start: byte offset of the first record wanted.
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
            if masked_crc(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
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


# TensorFlow's example.proto, which only TensorFlow installs; there `feature` is a map, and this is how a map is stored
_SCHEMA = """
name: "example.proto" package: "yt8m" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".yt8m.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".yt8m.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".yt8m.Int64List" oneof_index: 0 }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".yt8m.Feature" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".yt8m.Entry" }
}
message_type { name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".yt8m.Features" } }
"""
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
_Example = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("yt8m.Example"))
_NUMBERS = {"float_list": np.float32, "int64_list": np.int64}


def parse_example(payload: bytes) -> dict[str, Value]:
    """Features of a `tf.train.Example`: lists of bytes, float32 arrays or int64 arrays.

    Raises:
      ValueError: no such message.
    """
    try:
        example = _Example.FromString(payload)
    except DecodeError:
        raise ValueError("not a tf.train.Example") from None
    features: dict[str, Value] = {}
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        if kind == "bytes_list":
            features[entry.key] = list(entry.value.bytes_list.value)
        elif kind:
            features[entry.key] = np.array(getattr(entry.value, kind).value, _NUMBERS[kind])
    return features


def build_example(features: Mapping[str, Value]) -> bytes:
    """Serializes a `tf.train.Example` as TensorFlow packs it: float arrays as float lists, integers as int64 lists."""
    example = _Example()
    for key, value in sorted(features.items()):
        if isinstance(value, list):
            kind = "bytes_list"
        else:
            kind = "float_list" if value.dtype.kind == "f" else "int64_list"
        values = getattr(example.features.feature.add(key=key).value, kind)
        values.SetInParent()  # so that an empty list has a kind too
        values.value.extend(value)
    return example.SerializeToString()
