import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduction.runtime.run_folder import UserError
from subclass_torch.yt8m import data as yt8m_data
from subclass_torch.yt8m import tfrecord

from .conftest import video, write_shard


def slow_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def field(number, data):
    """A field of a protobuf message: its number with wire type 2, its length, its bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def test_published_crc_values():
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=2100))
def test_crc_equals_the_bitwise_one(data):
    assert tfrecord.crc32c(data) == slow_crc32c(data)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.one_of(
            st.lists(st.binary(max_size=5), max_size=3),
            st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: np.array(v, np.int64)),
            st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda v: np.array(v, np.float32)),
        ),
        max_size=4,
    )
)
def test_round_trip(features):
    back = tfrecord.parse_example(tfrecord.build_example(features))
    assert back.keys() == features.keys()
    for key, value in features.items():
        assert list(back[key]) == list(value)


def test_unpacked_lists_and_unknown_fields():
    floats = b"".join(b"\x0d" + struct.pack("<f", v) for v in (1.5, -2.0))  # field 1, 32-bit, twice
    numbers = b"\x08\x05\x08\xac\x02"  # field 1, varint, 5 and 300
    entries = b""
    for key, kind, data in ((b"f", 2, floats), (b"n", 3, numbers)):
        feature = field(kind, data)
        entries += field(1, field(1, key) + field(2, feature))
    payload = field(1, entries) + field(9, b"later versions")
    example = tfrecord.parse_example(payload)
    assert example["f"].tolist() == [1.5, -2.0] and example["n"].tolist() == [5, 300]


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60))
def test_any_payload_is_an_example_or_a_value_error(data):
    try:
        tfrecord.parse_example(data)
    except ValueError:
        pass


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_changed_byte_never_passes(tmp_path_factory, place, change):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.getbasetemp() / "changed.tfrecord"
    write_shard(path, [video(rng, [1, 2])])
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="changed.tfrecord: record 0: "):
        list(tfrecord.records(path))


def test_records_and_offsets(tmp_path):
    payloads = [b"first", b"", b"third" * 1000]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
    found = list(tfrecord.records(path))
    assert [payload for _, payload in found] == payloads
    for offset, payload in found:
        assert next(tfrecord.records(path, start=offset))[1] == payload


def test_broken_files_name_file_and_record(tmp_path):
    path = tmp_path / "train07.tfrecord"
    rng = np.random.default_rng(0)
    whole = b"".join(tfrecord.frame(tfrecord.build_example(video(rng, [n]))) for n in range(3))
    one = len(whole) // 3
    for cut, reason in ((2 * one + 5, "truncated length"), (2 * one + 100, "truncated"), (len(whole) - 2, "truncated")):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=f"train07.tfrecord: record 2: {reason}"):
            list(tfrecord.records(path))
    head = struct.pack("<Q", 1 << 40)
    path.write_bytes(whole[:one] + head + struct.pack("<I", tfrecord.masked_crc(head)) + b"x" * 50)
    with pytest.raises(UserError, match="record 1: 1099511627776 bytes long"):
        list(tfrecord.records(path))
    with pytest.raises(UserError, match="no-such.tfrecord: No such file"):
        list(tfrecord.records(tmp_path / "no-such.tfrecord"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean_audio": None}, "no mean_audio"),
        ({"labels": None}, "no labels"),
        ({"mean_rgb": np.zeros(1000, np.float32)}, "mean_rgb holds 1000 values, not 1024"),
        ({"labels": np.array([1, 9])}, r"labels \[1, 9\] are not in 0\.\.5"),
        ({"mean_rgb": np.full(1024, np.nan, np.float32)}, "a feature is not finite"),
    ],
)
def test_bad_videos_name_file_and_record(tmp_path, change, reason):
    rng = np.random.default_rng(0)
    bad = {key: value for key, value in {**video(rng, [1]), **change}.items() if value is not None}
    path = write_shard(tmp_path / "train00.tfrecord", [video(rng, [2]), {**video(rng, [2]), "unknown": [b"x"]}, bad])
    with pytest.raises(UserError, match=f"train00.tfrecord: record 2: {reason}"):
        list(yt8m_data.batches([path], 2, 6))


def test_streaming_order_is_a_function_of_seed_and_epoch(videos):
    paths = yt8m_data.shards(str(videos / "train" / "train*.tfrecord"), "train")

    def order(**options):
        found = list(yt8m_data.batches(paths, 8, 6, shuffle=True, buffer=10, **options))
        return np.concatenate([b.features[:, 0] for b in found])

    first = order(seed=1, epoch=0)
    assert len(first) == 55
    assert (first == order(seed=1, epoch=0, ahead=3)).all()
    assert (first[16:] == order(seed=1, epoch=0, skip=2)).all()
    assert (first != order(seed=1, epoch=1)).any() and (first != order(seed=2, epoch=0)).any()
    plain = np.concatenate([b.features[:, 0] for b in yt8m_data.batches(paths, 8, 6)])
    assert (np.sort(first) == np.sort(plain)).all()


def test_errors_come_out_of_the_background(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"rubbish that is no record")
    with pytest.raises(UserError, match="a.tfrecord: record 0"):
        list(yt8m_data.batches([path], 2, 6, ahead=2))


def test_windows_separators_and_missing_files(videos, monkeypatch):
    monkeypatch.chdir(videos)
    assert len(yt8m_data.shards(r".\train\train*.tfrecord", "train_data_pattern_glob")) == 2
    with pytest.raises(UserError, match="--train_data_pattern_glob nothing/\\*: no file matches"):
        yt8m_data.shards("nothing/*", "train_data_pattern_glob")
