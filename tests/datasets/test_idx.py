"""MNIST and Fashion-MNIST: the IDX format, where files may lie, what is refused."""

import dataclasses
import gzip
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import fashion_mnist, idx


@pytest.fixture
def mnist_files(make, remanifest):
    contents = make.idx_family()
    packed = {f"{name}.gz": make.gz(body) for name, body in contents.items()}
    remanifest("mnist", files=packed, contents=contents, mirrors=[])
    return contents, packed


@pytest.mark.parametrize("where", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_found_gzipped_or_not_wherever_placed(make, mnist_files, tmp_path, where, packed):
    make.place(tmp_path / "data" / where, mnist_files[packed])
    ds = datasets.load("mnist", tmp_path / "data")
    assert ds.verified and ds.train_images.shape == (30, 28, 28, 1)
    assert ds.test_labels.tolist() == [*range(10), *range(5)]
    raw = mnist_files[0]["train-images-idx3-ubyte"]
    assert ds.train_images.tobytes() == raw[16:]
    assert sorted(ds.digests) == sorted(mnist_files[0])


def test_other_gzip_wrapper_same_bytes_is_verified(make, remanifest, tmp_path):
    """Debian's .gz files differ from the official ones; what is inside counts."""
    contents = make.idx_family(seed=3)
    official = {f"{n}.gz": gzip.compress(b, 9) for n, b in contents.items()}
    debian = {f"{n}.gz": gzip.compress(b, 1, mtime=7) for n, b in contents.items()}
    assert official != debian
    remanifest("fashion_mnist", files=official, contents=contents)
    make.place(fashion_mnist.DEBIAN, debian)
    ds = datasets.load("fashion_mnist", tmp_path / "data", offline=True)
    assert ds.verified and ds.class_names[9] == "Ankle boot"


def test_downloaded_verified_then_used_without_network(make, mnist_files, remanifest, server, tmp_path, capsys):
    contents, packed = mnist_files
    server.bodies = {f"/{n}": b for n, b in packed.items()}
    remanifest("mnist", files=packed, contents=contents, mirrors=[server.url])
    first = datasets.load("mnist", tmp_path / "data")
    told = capsys.readouterr().err
    assert told.count("please cite: Y. LeCun") == 1 and "licence" in told
    assert len(server.requests) == 4
    second = datasets.load("mnist", tmp_path / "data", offline=True)
    assert len(server.requests) == 4 and np.array_equal(first.train_images, second.train_images)
    names = {p.name for p in (tmp_path / "data" / "mnist").iterdir()}
    assert names == {*packed, ".lock"}


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_swapped_bytes_are_refused_and_named(make, mnist_files, tmp_path, name):
    contents = dict(mnist_files[0])
    contents[name] = contents[name][:-1] + bytes([contents[name][-1] ^ 1])
    make.place(tmp_path / "mnist", contents)
    with pytest.raises(datasets.DatasetError, match=f"{name}: sha256 is .* expected .*--accept-unverified"):
        datasets.load("mnist", tmp_path)
    assert datasets.load("mnist", tmp_path, accept_unverified=True).verified is False


def test_labels_out_of_range_are_refused_even_unverified(make, mnist_files, tmp_path):
    contents = {**mnist_files[0], "train-labels-idx1-ubyte": make.idx(np.full(30, 10))}
    make.place(tmp_path / "mnist", contents)
    with pytest.raises(datasets.DatasetError, match="label 10 at position 0 is not in 0..9"):
        datasets.load("mnist", tmp_path, accept_unverified=True)


def test_more_labels_than_images(make, mnist_files, tmp_path):
    make.place(tmp_path / "mnist", {**mnist_files[0], "train-labels-idx1-ubyte": make.idx(np.zeros(31))})
    with pytest.raises(datasets.DatasetError, match="for 30 images"):
        datasets.load("mnist", tmp_path, accept_unverified=True)


def test_gzip_bomb_is_not_inflated(make, mnist_files, tmp_path):
    bomb = gzip.compress(bytes(50_000_000))
    make.place(tmp_path / "mnist", {**mnist_files[1], "train-images-idx3-ubyte.gz": bomb})
    tracemalloc.start()
    with pytest.raises(datasets.DatasetError, match="holds more than the 23,536 bytes expected"):
        datasets.load("mnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:5], lambda b: b"", lambda b: b"\x1f\x8b" + b[::-1]])
def test_damaged_gzip(make, mnist_files, tmp_path, damage):
    name = "train-images-idx3-ubyte.gz"
    make.place(tmp_path / "mnist", {**mnist_files[1], name: damage(mnist_files[1][name])})
    with pytest.raises(datasets.DatasetError, match="train-images-idx3-ubyte"):
        datasets.load("mnist", tmp_path, accept_unverified=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=64), st.sampled_from([1, 3]))
def test_any_bytes_decode_or_raise_dataset_error(raw, ndim):
    for prefix in (b"", bytes([0, 0, 8, ndim])):
        try:
            array = idx.decode(prefix + raw, ndim, "here")
        except datasets.DatasetError as error:
            assert str(error).startswith("here: ")
        else:
            assert array.dtype == np.uint8 and array.ndim == ndim and array.size > 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=3), st.integers(0, 99))
def test_round_trip(shape, seed):
    from struct import pack

    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    raw = pack(">4I", 0x803, *shape) + array.tobytes()
    assert np.array_equal(idx.decode(raw, 3, "x"), array)
    with pytest.raises(datasets.DatasetError, match="its header says"):
        idx.decode(raw + b"\0", 3, "x")


def test_images_and_labels_swapped(make, mnist_files, tmp_path):
    contents = dict(mnist_files[0])
    a, b = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    contents[a], contents[b] = contents[b], contents[a]
    make.place(tmp_path / "mnist", contents)
    with pytest.raises(datasets.DatasetError, match=f"{a}: magic number 0x00000801, expected 0x00000803"):
        datasets.load("mnist", tmp_path, accept_unverified=True)


def test_dataset_is_frozen(make, mnist_files, tmp_path):
    make.place(tmp_path / "mnist", mnist_files[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        datasets.load("mnist", tmp_path).name = "other"
