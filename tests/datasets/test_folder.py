"""A user's own folder: layouts, sizes, colours; and pictures nobody should trust."""

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets import arrays, folder


def picture(color=(10, 200, 30), size=(48, 40), kind="PNG", mode="RGB"):
    out = io.BytesIO()
    Image.new("RGB", size, color).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.fixture
def flat(make, tmp_path):
    """Three classes with 10 pictures each, no split."""
    for i, name in enumerate(["cat", "dog", "Élan"]):
        files = {}
        for k in range(10):
            suffix, kind = [("JPG", "JPEG"), ("png", "PNG")][k % 2]
            files[f"{k}.{suffix}"] = picture((80 * i, 5 * k, 9), (30 + k, 50 - k), kind)
        make.place(tmp_path / "own" / name, files)
    return tmp_path / "own"


def test_flat_folder_is_split_80_20_by_class(flat, tmp_path):
    ds = datasets.load(f"folder:{flat}", tmp_path / "data", size=24)
    assert ds.name == "folder:own" and ds.class_names == ("cat", "dog", "Élan") and ds.verified is False
    assert ds.train_images.shape == (24, 24, 24, 3) and ds.test_images.shape == (6, 24, 24, 3)
    assert np.bincount(ds.train_labels).tolist() == [8] * 3 and np.bincount(ds.test_labels).tolist() == [2] * 3
    reds = ds.train_images[:, 12, 12, 0].astype(int)
    assert np.abs(reds - 80 * ds.train_labels).max() <= 4  # JPEG may be a little off
    again = datasets.load(f"folder:{flat}", tmp_path / "data", size=24)
    assert np.array_equal(again.train_images, ds.train_images) and again.digests == ds.digests
    assert all(str(tmp_path) not in key for key in ds.digests)


def test_digest_follows_contents_and_names(flat, tmp_path):
    before = datasets.load(f"folder:{flat}").digests
    (flat / "cat" / "1.png").write_bytes(picture((1, 2, 3)))
    after = datasets.load(f"folder:{flat}").digests
    assert before != after


def test_train_and_test_folders_are_taken_as_they_are(make, tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            make.place(tmp_path / "own" / split / name, {f"{i}.png": picture((i, 0, 0)) for i in range(n)})
    ds = datasets.load(f"folder:{tmp_path / 'own'}", size=8)
    assert ds.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and ds.test_labels.tolist() == [0, 0, 1, 1]
    assert ds.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_large_folders_are_mapped(flat, tmp_path, monkeypatch):
    small = datasets.load(f"folder:{flat}", tmp_path / "data")
    monkeypatch.setattr(arrays, "MAPPED_ABOVE", 1)
    mapped = datasets.load(f"folder:{flat}", tmp_path / "data")
    assert isinstance(mapped.train_images, np.memmap) and np.array_equal(mapped.train_images, small.train_images)
    assert len(list((tmp_path / "data" / "folder").glob("*.npy"))) == 2


def test_many_megabytes_of_files_are_decoded_once(flat, tmp_path, monkeypatch, capsys):
    quick = datasets.load(f"folder:{flat}", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.npy"))
    monkeypatch.setattr(folder, "CACHED_ABOVE", 1)
    datasets.load(f"folder:{flat}", tmp_path / "data")
    assert "-32-upright.npy: decoding 24 images once; later runs read them there" in capsys.readouterr().err
    monkeypatch.setattr(folder, "decode", lambda *_: pytest.fail("decoded twice"))
    again = datasets.load(f"folder:{flat}", tmp_path / "data")
    assert type(again.train_images) is np.ndarray and again.train_images.flags.writeable
    assert np.array_equal(again.train_images, quick.train_images) and again.digests == quick.digests
    assert np.array_equal(again.test_images, quick.test_images)


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_does_not_stop_images_that_fit_into_memory(flat, tmp_path, monkeypatch, capsys, call):
    """Nor does a lock of another user: the file only saves time."""

    def refuse(path, *args):
        if call == "fsync" or str(path).endswith("folder/.lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args)

    quick, opened = datasets.load(f"folder:{flat}", tmp_path / "data"), os.open
    monkeypatch.setattr(folder, "CACHED_ABOVE", 1)
    monkeypatch.setattr(os, call, refuse)
    again = datasets.load(f"folder:{flat}", tmp_path / "data")
    assert np.array_equal(again.train_images, quick.train_images)
    assert "No space left on device" in capsys.readouterr().err and not list((tmp_path / "data").rglob("*.npy"))
    if call == "fsync":
        monkeypatch.setattr(arrays, "MAPPED_ABOVE", 1)
        with pytest.raises(datasets.DatasetError, match="No space left on device.; it needs"):
            datasets.load(f"folder:{flat}", tmp_path / "data")


@pytest.mark.parametrize("width, height", [(64, 64), (100, 50), (50, 100), (7, 3), (1, 1), (1, 5000)])
def test_centre_square_at_any_size(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = 200
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    found = folder.decode(out.getvalue(), 16, "x")
    assert found.shape == (16, 16, 3) and found[4:12, 4:12].min() == 200


def test_resizing_agrees_with_resize_then_crop():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 60, 3), dtype=np.uint8)).resize((120, 180))
    out = io.BytesIO()
    image.save(out, "PNG")
    slow = np.asarray(image.resize((40, 60), Image.Resampling.BILINEAR).crop((0, 10, 40, 50))).astype(int)
    fast = folder.decode(out.getvalue(), 40, "x").astype(int)
    assert np.abs(slow - fast)[2:-2, 2:-2].max() <= 1  # the border differs: its filter ends at the square


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = folder.decode(picture((255, 255, 255), mode=mode, kind=kind), 8, "x")
    assert found.shape == (8, 8, 3) and found.min() >= 250


def test_sixteen_bit_grey_keeps_its_brightness():
    out = io.BytesIO()
    Image.fromarray(np.full((9, 9), 0x8040, np.uint16)).save(out, "PNG")
    assert np.unique(folder.decode(out.getvalue(), 4, "x")).tolist() == [0x80]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_programs_that_take_one_picture_read_it_as_training_does(tmp_path, kind):
    from class2str_tf.predict import read_image
    from subclass_torch.predict import read_image as read_for_subclasses

    shape = (90, 120, 3) if kind is np.uint8 else (90, 120)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, kind)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    trained_on = folder.decode((tmp_path / "a.png").read_bytes(), 32, "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (32, 32, 3))[0], trained_on)
    np.testing.assert_array_equal(read_for_subclasses(tmp_path / "a.png", 3)[0], trained_on)


def test_layouts_that_cannot_be_meant(make, tmp_path):
    cases = {
        "missing": ({}, "no such folder"),
        "empty": ({"": {}}, "0 sub-folders"),
        "one": ({"a": {"x.png": picture()}}, "1 sub-folders; expected one per class"),
        "hollow": ({"a": {"x.png": picture()}, "b": {"x.txt": b""}}, "b: no JPEG or PNG"),
        "half": ({"train/a": {"x.png": picture()}, "other/b": {}}, "has train but no test"),
        "extra": (
            {f"train/{c}": {"x.png": picture()} for c in "ab"} | {f"test/{c}": {"x.png": picture()} for c in "ac"},
            "c: a class that the training folder lacks",
        ),
    }
    for name, (layout, message) in cases.items():
        for sub, files in layout.items():
            make.place(tmp_path / name / sub, files)
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.load(f"folder:{tmp_path / name}")
    with pytest.raises(datasets.DatasetError, match="size 0 is not in 1..4096"):
        datasets.load(f"folder:{tmp_path / 'one'}", size=0)


def _png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "raw, message",
    [
        (_png(60_000, 60_000), "60000 x 60000|exceeds limit"),
        (_png(9_000, 9_000), "9000 x 9000 pixels, more than"),
        (_png(40, 40), "damaged"),
        (picture()[:-30], "damaged"),
        (picture(kind="JPEG")[:300], "damaged"),
        (b"", r"damaged or not what it should be \(UnidentifiedImageError: cannot identify image file\)$"),
        (b"GIF89a" + bytes(50), "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", "damaged"),
    ],
)
def test_hostile_pictures_are_named(flat, raw, message):
    (flat / "dog" / "1.png").write_bytes(raw)
    with pytest.raises(datasets.DatasetError, match=f"dog/1.png: .*({message})"):
        datasets.load(f"folder:{flat}")


def test_nobody_is_told_to_delete_a_picture_of_their_own(flat, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(datasets.DatasetError, match=r"cat/.*: cannot be read \(Permission denied\)$"):
        datasets.load(f"folder:{flat}")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(["PNG", "JPEG"]))
def test_damaged_pictures_decode_or_raise_dataset_error(data, kind):
    raw = bytearray(picture(kind=kind))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        assert folder.decode(bytes(raw), 8, "here").shape == (8, 8, 3)
    except datasets.DatasetError as error:
        assert str(error).startswith("here: ")
