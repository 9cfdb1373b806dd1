"""CIFAR-10 and CIFAR-100: layouts, channel order, superclasses, damaged and hostile batches."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import unpickle
from datasets.manifest import entry


@pytest.fixture
def cifar10(make, remanifest):
    files = make.cifar10_files()
    archive = make.tar_gz(files, "cifar-10-batches-py")
    remanifest("cifar10", files={"cifar-10-python.tar.gz": archive}, contents=files)
    return files, archive


@pytest.fixture
def cifar100(make, remanifest):
    files = make.cifar100_files()
    archive = make.tar_gz(files, "cifar-100-python")
    remanifest("cifar100", files={"cifar-100-python.tar.gz": archive}, contents=files)
    return files, archive


def _check10(ds):
    assert ds.verified and ds.train_images.shape == (100, 32, 32, 3) and len(ds.test_labels) == 20
    assert ds.class_names[:2] == ("airplane", "automobile") and len(ds.digests) == 6


LAYOUTS = ["cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar_10", "cifar10", "."]


@pytest.mark.parametrize("where", LAYOUTS)
def test_unpacked_batches_are_found(make, cifar10, tmp_path, where):
    make.place(tmp_path / "data" / where, cifar10[0])
    _check10(datasets.load("cifar10", tmp_path / "data", offline=True))


def test_the_authors_folder_in_the_working_directory_is_found(make, cifar10, tmp_path):
    make.place(tmp_path / "cifar_10", cifar10[0])
    _check10(datasets.load("cifar10", tmp_path / "data", offline=True))


@pytest.mark.parametrize("where", ["cifar10", "."])
def test_archive_is_unpacked_once(make, cifar10, tmp_path, where):
    make.place(tmp_path / "data" / where, {"cifar-10-python.tar.gz": cifar10[1]})
    _check10(datasets.load("cifar10", tmp_path / "data", offline=True))
    home = tmp_path / "data" / "cifar10"
    assert sorted(p.name for p in (home / "cifar-10-batches-py").iterdir()) == sorted(cifar10[0])
    (tmp_path / "data" / where / "cifar-10-python.tar.gz").unlink()
    _check10(datasets.load("cifar10", tmp_path / "data", offline=True))
    assert not [p for p in home.iterdir() if "unpacking" in p.name]


def test_an_empty_folder_is_filled_and_no_file_in_it_is_lost(make, cifar10, tmp_path):
    home = make.place(tmp_path / "cifar10", {"cifar-10-python.tar.gz": cifar10[1]})
    notes = make.place(home / "cifar-10-batches-py", {"notes.txt": b"mine"}) / "notes.txt"
    with pytest.raises(datasets.DatasetError, match="cifar-10-batches-py: cannot unpack .*Directory not empty"):
        datasets.load("cifar10", tmp_path, offline=True)
    assert notes.read_bytes() == b"mine"
    notes.unlink()
    _check10(datasets.load("cifar10", tmp_path, offline=True))


def test_pixels_are_planes_in_the_file_and_channels_last_in_the_array(make, remanifest, tmp_path):
    data = np.arange(3072, dtype=np.uint32).astype(np.uint8).reshape(1, 3072)
    files = make.cifar10_files(count=1, data=data, labels=[3])
    remanifest("cifar10", contents=files)
    make.place(tmp_path / "cifar_10", files)
    image = datasets.load("cifar10", tmp_path).train_images[0]
    for row, column, channel in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (31, 31, 2), (5, 7, 1)]:
        assert image[row, column, channel] == data[0, 1024 * channel + 32 * row + column]


def test_missing_batch_is_named(make, cifar10, tmp_path):
    make.place(tmp_path / "cifar_10", {k: v for k, v in cifar10[0].items() if k != "data_batch_3"})
    with pytest.raises(datasets.DatasetError, match="cifar_10/data_batch_3: missing"):
        datasets.load("cifar10", tmp_path, offline=True)


def test_nothing_there_and_offline_says_what_to_do(cifar10, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASETS_OFFLINE", "1")
    with pytest.raises(datasets.DatasetError, match="has no address|downloads are off"):
        datasets.load("cifar10", tmp_path)


def test_cifar100_has_superclasses(make, cifar100, tmp_path):
    make.place(tmp_path / "cifar100", {"cifar-100-python.tar.gz": cifar100[1]})
    ds = datasets.load("cifar100", tmp_path, offline=True)
    assert ds.verified and ds.train_images.shape == (200, 32, 32, 3) and ds.num_classes == 100
    assert ds.coarse_labels.dtype == np.int64 and np.array_equal(ds.coarse_labels, np.arange(100) % 20)
    assert ds.class_names[7] == "fine7" and ds.coarse_names[19] == "coarse19"


def test_cifar100_with_other_pixels_is_named_unverified(make, cifar100, tmp_path):
    make.place(tmp_path / "cifar-100-python", make.cifar100_files(seed=1))
    with pytest.raises(datasets.DatasetError, match="train: sha256 is .*--accept-unverified"):
        datasets.load("cifar100", tmp_path)
    assert datasets.load("cifar100", tmp_path, accept_unverified=True).verified is False


def test_superclasses_must_agree(make, cifar100, tmp_path):
    data = np.zeros((200, 3072), np.uint8)
    fine = [i % 100 for i in range(200)]
    coarse = [f % 20 for f in fine]
    coarse[150] = 1 - coarse[150] % 2
    files = {**cifar100[0], "train": make.py2_pickle({"data": data, "fine_labels": fine, "coarse_labels": coarse})}
    make.place(tmp_path / "cifar100", files)
    with pytest.raises(datasets.DatasetError, match="different superclasses"):
        datasets.load("cifar100", tmp_path, accept_unverified=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [10] * 20}, "label 10 at position 0 is not in 0..9"),
        ({"labels": [-1] * 20}, "label -1"),
        ({"labels": [1] * 19}, "19 labels under 'labels' for 20 images"),
        ({"labels": "twenty"}, "no list of whole numbers"),
        ({"labels": ["a"] * 20}, "no list of whole numbers"),
        ({"data": np.zeros((20, 3071), np.uint8)}, "3,072 pixels"),
        ({"data": 3}, "3,072 pixels"),
    ],
)
def test_wrong_contents_are_refused_even_unverified(make, cifar10, tmp_path, change, message):
    make.place(tmp_path / "cifar_10", make.cifar10_files(**change))
    with pytest.raises(datasets.DatasetError, match=f"data_batch_1.*{message}"):
        datasets.load("cifar10", tmp_path, accept_unverified=True)


# --- pickles -------------------------------------------------------------------------------------------------------

BATCH = {b"data": np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072), b"labels": [1, 2]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL))  # 5 moves arrays out of band: see below
def test_pickles_of_python_3_are_read_too(protocol):
    found = unpickle.load(pickle.dumps(BATCH, protocol=protocol), "here")
    assert np.array_equal(found["data"], BATCH[b"data"]) and found["labels"] == [1, 2]


def test_python_2_pickles_are_read(make):
    raw = make.py2_pickle({"data": BATCH[b"data"], "labels": [1, 2], "batch_label": "x"})
    found = unpickle.load(raw, "here")
    assert np.array_equal(found["data"], BATCH[b"data"]) and found["batch_label"] == b"x"


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_the_refused_name_is_told():
    with pytest.raises(datasets.DatasetError, match="here: .*it asks for os.system, .*nothing was run"):
        unpickle.load(b"cos\nsystem\n(S'true'\ntR.", "here")


def test_hostile_pickles_run_nothing(tmp_path):
    import os
    import subprocess

    mark = tmp_path / "ran"
    attacks = [
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(subprocess.call, ["touch", str(mark)]),
        Evil(getattr, "text", "upper"),
        Evil(np.fromfile, str(mark)),
        Evil(np.ndarray, (1 << 40,)),
    ]
    for attack in attacks:
        for payload in (attack, {b"data": attack, b"labels": [1]}):
            with pytest.raises(datasets.DatasetError, match="^here: "):
                unpickle.load(pickle.dumps(payload, protocol=2), "here")
    assert not mark.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # the classic
        b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x01x\x85R.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # memo table of 2^31 entries
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R}U\x01xK\x01sb.",  # state is a dict
        b"\x80\x02cdatasets.unpickle\n_Encode\n)R.",
        b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.",  # tuples in tuples, hashed as a key: a segmentation fault
        b"\x80\x02}" + b"]" * 200_000 + b"a" * 199_999 + b"K\x01s.",
        b"\x80\x02Pabc\n.",  # persistent id
        b"\x80\x02\x82\x01.",  # extension registry
        b"]" * 100_000 + b".",
        b"(" * 100_000,
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"",
        b".",
        b"\x80\x02K\x01.",  # a number, not a dictionary
        b"\x80\x02}U\x01xK\x01s",  # no end
        b"\x8a\xff\xff\xff\xff",
        b"\x80\x02}(" + b"U\x04dataK\x01" + b"]K\x01s.",
    ],
)
def test_odd_pickles_give_one_line(raw):
    with pytest.raises(datasets.DatasetError, match="^here: ") as caught:
        unpickle.load(raw, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("length", "calls", "message"),
    [(10, 1001, "more than .*1000 calls"), (100_000, 21, "21 calls .* to 100,000 char")],
)
@pytest.mark.parametrize("call", [b"R", b"\x81"])
def test_few_bytes_cannot_become_many(monkeypatch, length, calls, message, call):
    """The same text, encoded again and again: its arguments are pickled once."""
    monkeypatch.setattr(unpickle, "MOST_BYTES", 2_000_000)
    arguments = b"X" + struct.pack("<i", length) + b"x" * length + b"X\x06\x00\x00\x00latin1\x86q\x01"
    again = b"h\x00h\x01" + call
    raw = b"\x80\x02}U\x01x](c_codecs\nencode\nq\x00" + arguments + call + again * (calls - 1) + b"es."
    with pytest.raises(datasets.DatasetError, match=message):
        unpickle.load(raw, "here")


@pytest.mark.parametrize("name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
def test_a_pickle_cannot_change_our_classes(name):
    """Opcode BUILD sets attributes on whatever lies on the stack, a class too."""
    before = [dict(vars(stand_in)) for stand_in in unpickle.ALLOWED.values()]
    for state in (b"}U\x01xK\x01s", b"N}U\x01xK\x01s\x86"):
        with pytest.raises(datasets.DatasetError, match="^here: "):
            unpickle.load(b"\x80\x02}U\x01ac" + name + b"\n" + state + b"bs.", "here")
    assert before == [dict(vars(stand_in)) for stand_in in unpickle.ALLOWED.values()]


@pytest.mark.parametrize("shape", [(1 << 60, 3072), (-1, 3072), (2, "x"), (3, 3072), (2.0, 3072)])
def test_arrays_with_impossible_shapes(make, shape):
    raw = make.py2_pickle({"data": BATCH[b"data"]})
    packed = b"M" + struct.pack("<H", 2) + b"M" + struct.pack("<H", 3072) + b"\x86"
    assert packed in raw
    other = pickle.dumps(shape, protocol=2).removeprefix(b"\x80\x02").removesuffix(b".")
    with pytest.raises(datasets.DatasetError, match="^here: "):
        unpickle.load(raw.replace(packed, other), "here")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=80))
def test_any_bytes_give_a_dictionary_or_dataset_error(raw):
    for prefix in (b"", b"\x80\x02}(", b"\x80\x02cnumpy\ndtype\n", b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R"):
        try:
            assert isinstance(unpickle.load(prefix + raw, "here"), dict)
        except datasets.DatasetError as error:
            assert str(error).startswith("here: ")


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_batches_load_right_or_raise_dataset_error(make_small, data):
    raw = bytearray(make_small)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        assert isinstance(unpickle.load(bytes(raw), "here"), dict)
    except datasets.DatasetError as error:
        assert str(error).startswith("here: ")


@pytest.fixture(scope="module")
def make_small():
    return pickle.dumps({b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2]}, protocol=2)


def test_real_manifest_names_the_files_the_reader_wants():
    assert [f.name for f in entry("cifar10").contents][-1] == "test_batch"
    assert [f.name for f in entry("cifar100").contents] == ["train", "test", "meta"]
