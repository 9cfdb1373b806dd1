"""SVHN: MATLAB 5 files written by SciPy and by hand, read piece by piece; memory; damage."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import io as sio

import datasets
from datasets import arrays, matfile, svhn

REPO = Path(__file__).resolve().parents[2]


def mat(count, seed=0, compressed=True, **change):
    """A file as the real ones are: X uint8 [32, 32, 3, N], y double [N, 1] in 1..10."""
    rng = np.random.default_rng(seed)
    if "X" not in change:
        change["X"] = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    out = io.BytesIO()
    labels = (np.arange(count) % 10 + 1).astype(np.float64)[:, None]
    sio.savemat(out, {"y": labels, **change}, do_compression=compressed)
    return out.getvalue()


@pytest.fixture
def files(make, remanifest, tmp_path):
    bodies = {"train_32x32.mat": mat(30), "extra_32x32.mat": mat(50, 1), "test_32x32.mat": mat(20, 2)}
    remanifest("svhn", files=bodies)
    make.place(tmp_path / "svhn", bodies)
    return bodies


def _oracle(body):
    loaded = sio.loadmat(io.BytesIO(body))
    return loaded["X"].transpose(3, 0, 1, 2), loaded["y"].ravel().astype(int) % 10


def test_train_is_train_then_extra(files, tmp_path):
    ds = datasets.load("svhn", tmp_path)
    train, train_y = _oracle(files["train_32x32.mat"])
    extra, extra_y = _oracle(files["extra_32x32.mat"])
    test, test_y = _oracle(files["test_32x32.mat"])
    assert ds.verified and np.array_equal(ds.train_images, np.concatenate([train, extra]))
    assert np.array_equal(ds.train_labels, np.concatenate([train_y, extra_y])) and ds.train_labels.max() == 9
    assert np.array_equal(ds.test_images, test) and np.array_equal(ds.test_labels, test_y)
    assert ds.train_labels[9] == 0  # the files call the digit zero 10


def test_without_extra(files, tmp_path):
    (tmp_path / "svhn" / "extra_32x32.mat").unlink()
    assert len(datasets.load("svhn", tmp_path, extra=False).train_labels) == 30


def test_large_sets_are_mapped_and_made_once(files, tmp_path, monkeypatch):
    small = datasets.load("svhn", tmp_path)
    monkeypatch.setattr(arrays, "MAPPED_ABOVE", 61_440)  # exactly the test split: stays in memory
    mapped = datasets.load("svhn", tmp_path)
    assert isinstance(mapped.train_images, np.memmap) and not mapped.train_images.flags.writeable
    assert np.array_equal(mapped.train_images, small.train_images) and not isinstance(mapped.test_images, np.memmap)
    monkeypatch.setattr(arrays, "MAPPED_ABOVE", 1)
    datasets.load("svhn", tmp_path)
    assert len(list((tmp_path / "svhn").glob("*.npy"))) == 2
    monkeypatch.setattr(svhn, "images", lambda *a: pytest.fail("decoded twice"))
    assert np.array_equal(datasets.load("svhn", tmp_path).train_images, small.train_images)


def test_damaged_map_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAPPED_ABOVE", 100_000)
    datasets.load("svhn", tmp_path)
    (path,) = (tmp_path / "svhn").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(datasets.DatasetError, match="cannot be read.*delete it"):
        datasets.load("svhn", tmp_path)


def test_nothing_half_written_stays_when_decoding_fails(tmp_path):
    def broken():
        yield np.zeros((10, 10), np.uint8)
        raise datasets.DatasetError("the source is damaged")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "MAPPED_ABOVE", 1)
        with pytest.raises(datasets.DatasetError, match="damaged"):
            arrays.build(tmp_path / "d" / "x.npy", (20, 10), broken)
        with pytest.raises(datasets.DatasetError, match="10 images came, expected 20"):
            arrays.build(tmp_path / "d" / "x.npy", (20, 10), lambda: iter([np.zeros((10, 10), np.uint8)]))
    assert [p.name for p in (tmp_path / "d").iterdir()] == [".lock"]


def test_peak_memory_is_far_below_two_copies(tmp_path):
    """A child maps 49 MB of images; its anonymous memory must not grow by half a copy."""
    (tmp_path / "big.mat").write_bytes(mat(16_000, X=np.zeros((32, 32, 3, 16_000), np.uint8)))
    code = """
import sys, re
from pathlib import Path
import numpy as np
from datasets import arrays, svhn
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
arrays.MAPPED_ABOVE = 1
path = Path(sys.argv[1])
before, peak = anonymous(), 0
def chunks():
    global peak
    for chunk in svhn.images(path, 16_000):
        yield chunk
        peak = max(peak, anonymous() - before)
array = arrays.build(path.with_name("big.npy"), (16_000, 32, 32, 3), chunks)
assert array.shape == (16_000, 32, 32, 3)
print(max(peak, anonymous() - before))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, which only Linux has")
    command = [sys.executable, "-c", code, str(tmp_path / "big.mat")]
    out = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert int(out) < 24_000_000


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "f4", "f8", "i8"])
def test_any_numeric_label_type(tmp_path, compressed, dtype):
    body = mat(13, compressed=compressed, y=(np.arange(13) % 10 + 1).astype(dtype)[:, None])
    (tmp_path / "a.mat").write_bytes(body)
    assert svhn.labels(tmp_path / "a.mat").tolist() == [(i % 10 + 1) % 10 for i in range(13)]
    assert np.array_equal(np.concatenate(list(svhn.images(tmp_path / "a.mat", 13))), _oracle(body)[0])


def test_other_variables_are_passed_over(tmp_path):
    rng = np.random.default_rng(0)
    before = {"note": "text", "cell": np.array([1, "a"], object), "complex": np.array([1j]), "w": rng.random(99)}
    out = io.BytesIO()
    before["a_long_name"] = np.arange(24.0).reshape(2, 3, 4)  # its name and its three sizes are padded in the file
    sio.savemat(out, {**before, "y": np.ones((3, 1))}, do_compression=True)
    (tmp_path / "a.mat").write_bytes(out.getvalue())
    assert svhn.labels(tmp_path / "a.mat").tolist() == [1, 1, 1]
    with matfile.variable(tmp_path / "a.mat", "w") as w:
        assert np.array_equal(np.concatenate(list(w.chunks(10))), before["w"])
    with matfile.variable(tmp_path / "a.mat", "a_long_name") as a:
        assert a.dims == (2, 3, 4)
        assert np.array_equal(np.concatenate(list(a.chunks(100))).reshape(a.dims, order="F"), before["a_long_name"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": np.full((30, 1), 11.0)}, "label 11.0 at position 0 is not in 1..10"),
        ({"y": np.full((30, 1), 0.0)}, "label 0.0"),
        ({"y": np.full((30, 1), np.nan)}, "label nan"),
        ({"y": np.full((30, 1), 1.5)}, "label 1.5"),
        ({"y": np.ones((31, 1))}, "expected uint8 .32, 32, 3, 31."),
        ({"y": np.ones((5, 6))}, "expected N x 1"),
        ({"y": np.ones((0, 1))}, "expected N x 1"),
        ({"y": "text"}, "no array named 'y'"),
        ({"X": np.zeros((32, 32, 3, 30))}, "X is float64"),
        ({"X": np.zeros((32, 31, 3, 30), np.uint8)}, "expected uint8"),
    ],
)
def test_wrong_contents(files, tmp_path, change, message):
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(mat(30, **change))
    with pytest.raises(datasets.DatasetError, match=f"train_32x32.mat.*{message}"):
        datasets.load("svhn", tmp_path, accept_unverified=True)


def test_another_file_is_refused(files, tmp_path):
    (tmp_path / "svhn" / "test_32x32.mat").write_bytes(mat(20, 3))
    with pytest.raises(datasets.DatasetError, match="test_32x32.mat: .*--accept-unverified"):
        datasets.load("svhn", tmp_path)
    assert datasets.load("svhn", tmp_path, accept_unverified=True).verified is False


def test_bomb_is_never_inflated_in_one_piece(tmp_path):
    """64 MB of zeros behind a header that promises three labels: only what is promised is inflated."""
    inner = struct.pack("<II", 14, 1 << 26) + struct.pack("<IIII", 6, 8, 6, 0)
    inner += struct.pack("<IIii", 5, 8, 3, 1) + struct.pack("<HHI", 1, 1, ord("y")) + struct.pack("<II", 9, 1 << 26)
    packed = zlib.compress(inner + bytes(1 << 26))
    header = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(datasets.DatasetError, match="67108864 bytes for an array of size"):
        svhn.labels(tmp_path / "a.mat")


SMALL = mat(2, compressed=True)
PLAIN = mat(2, compressed=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([SMALL, PLAIN]))
def test_damaged_files_read_right_or_raise_dataset_error(tmp_path_factory, data, body):
    raw = bytearray(body)
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(120, 400))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    path = tmp_path_factory.mktemp("fuzz") / "a.mat"
    path.write_bytes(bytes(raw))
    try:
        labels = svhn.labels(path)
        for chunk in svhn.images(path, 2):
            assert chunk.dtype == np.uint8
    except datasets.DatasetError as error:
        assert str(path) in str(error)
    else:
        assert labels.dtype == np.int64
