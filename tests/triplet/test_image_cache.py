"""The cache of decoded images: same bits where nothing is reduced, one maker, refused if it is of other images."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from datasets.core import DatasetError
from reproduction.runtime.run_folder import UserError
from reproduction.runtime.tf import tf, tf1
from tests.gpu_kernels import without_kernel
from tests.triplet.conftest import write_set
from tests.triplet.test_inputs import config_of, slow_resize
from triplet_tf.config.base_config import Config
from triplet_tf.data_sampling import loader
from triplet_tf.data_sampling.image_lists import open_lists

FLAGS = ("--aug_style", "img", "--frame_size", "16", "--train_mode", "hard", "--resize_sides")
LARGER, SMALLER = (*FLAGS, "18,41"), (*FLAGS, "18,22")  # shorter sides are 20 to 30


@pytest.fixture
def root(tmp_path) -> Path:
    write_set(tmp_path)
    return tmp_path


def batches_of(config: Config, first: int = 0) -> list[np.ndarray]:
    """Three training batches from `first` on, and the test list."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        lists = open_lists(config)
        train, test = loader.TrainBatches(config, lists), loader.TestBatches(config, lists)
        train.start(session, first)
        test.start(session)
        found = [session.run([train.images, train.labels]) for _ in range(3)]
        found += [session.run([test.images, test.labels]) for _ in range(2)]
        return [array for pair in found for array in pair]


def open_cache(config: Config) -> loader.ImageCache:
    with tf1.Graph().as_default(), tf1.Session() as session:
        cache = loader.ImageCache(config, open_lists(config))
        cache.attach(session)
    return cache


def test_an_image_that_is_not_reduced_gives_the_same_bits_from_any_step(root):
    plain, cached = config_of(root, *LARGER), config_of(root, *LARGER, "--image-cache")
    for first in (0, 2):
        for one, other in zip(batches_of(plain, first), batches_of(cached, first), strict=True):
            np.testing.assert_array_equal(one, other)


def test_larger_images_are_reduced_to_whole_grey_levels_and_close(root):
    config = config_of(root, *SMALLER, "--image_cache")
    cache, names = open_cache(config), open_lists(config).train.names
    with tf1.Graph().as_default(), tf1.Session() as session:
        path = tf1.placeholder(tf.string, [])
        wanted, found = loader.decode(path), cache.read(path)
        sides = set()
        for file in loader.as_bytes(loader.file_paths(open_lists(config).images, names[::7])):
            whole, small = session.run([wanted, found], {path: file})
            height, width = whole.shape[:2]
            scale = np.float32(min(22, height, width)) / np.float32(min(height, width))
            shape = [max(min(22, height, width), int(np.float32(side) * scale)) for side in (height, width)]
            np.testing.assert_allclose(small, slow_resize(whole, *shape), atol=0.51)
            sides.add(min(small.shape[:2]))
    assert sides == {20, 22}  # never enlarged
    plain = batches_of(config_of(root, *SMALLER))
    for one, other in zip(plain, batches_of(config), strict=True):
        assert np.abs(one - other).mean() < 0.1  # of a range of 2: the crops are the same


@pytest.mark.parametrize("flags", [(*LARGER,), (*SMALLER, "--no-flip")])
def test_pixels_in_the_memory_of_a_gpu_give_the_same_images(root, monkeypatch, flags):
    config = config_of(root, *flags, "--image-cache")
    host = [batches_of(config, first) for first in (0, 2)]
    monkeypatch.setattr(loader, "gpu_name", lambda: "a GPU")
    with tf1.Graph().as_default() as graph, tf1.Session(config=tf1.ConfigProto(allow_soft_placement=True)) as session:
        lists = open_lists(config)
        train, test = loader.TrainBatches(config, lists), loader.TestBatches(config, lists)
        for first, expected in zip((0, 2), host, strict=True):  # without a GPU: on the CPU
            train.start(session, first)
            test.start(session)
            found = [session.run([train.images, train.labels]) for _ in range(3)]
            found += [session.run([test.images, test.labels]) for _ in range(2)]
            for one, other in zip([array for pair in found for array in pair], expected, strict=True):
                assert one.dtype == other.dtype and one.shape == other.shape
                np.testing.assert_allclose(one, other, atol=1e-5)  # of a range of 2
        assert not tf1.global_variables()  # nothing that a checkpoint would hold
    kinds = [op.type for op in graph.get_operations() if "GPU" in op.device]
    assert kinds.count("ResourceGather") == 8 and kinds.count("VarHandleOp") == 1  # training and test share the table
    assert not without_kernel(graph.get_operations())
    monkeypatch.setattr(loader, "ON_GPU_BYTES", 60 * config.resize_sides[1] ** 2 * 3 - 1)  # too large: on the host
    with tf1.Graph().as_default():
        assert loader.TrainBatches(config, lists).cache.table is None


def test_two_openers_make_it_once_and_a_removed_one_is_made_anew(root, capsys):
    config = config_of(root, *SMALLER, "--image-cache")
    threads = [threading.Thread(target=open_cache, args=[config]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = open_cache(config).folder
    assert capsys.readouterr().out.count("decoding 60 images once") == 1
    files = {name: (folder / name).read_bytes() for name in ("pixels.bin", "index.json")}
    shutil.rmtree(folder)
    open_cache(config)
    assert files == {name: (folder / name).read_bytes() for name in files}
    (folder / "index.json").unlink()  # killed before the last file
    (folder / "pixels.bin").write_bytes(b"half")
    open_cache(config)
    assert files == {name: (folder / name).read_bytes() for name in files}
    assert not (folder / "pixels.partial").exists()


def test_one_cache_serves_every_split(root, capsys):
    for flags in ((), ("--eval_split", "val")):
        open_cache(config_of(root, *SMALLER, "--image-cache", *flags))
    assert capsys.readouterr().out.count("decoding") == 1


@pytest.mark.parametrize("fault", ["the images have changed", "pixels.bin is damaged", "another version", "it lacks"])
def test_a_cache_of_something_else_is_refused_in_one_line(root, fault):
    config = config_of(root, *SMALLER, "--image-cache")
    folder = open_cache(config).folder
    index = json.loads((folder / "index.json").read_text())
    if fault.startswith("the images"):
        (root / "tiny" / "images" / index["names"][3]).write_bytes(b"other")
    elif fault.startswith("pixels"):
        (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes()[:-1])
    elif fault.startswith("another"):
        (folder / "index.json").write_text(json.dumps({**index, "version": 0}))
    else:
        less = {"names": index["names"][:-1], "shapes": index["shapes"][:-1]}
        (folder / "index.json").write_text(json.dumps({**index, **less}))
    with pytest.raises(
        DatasetError, match=f"{folder}: no cache of these images: {fault}.*; delete the folder"
    ) as error:
        open_cache(config)
    assert "\n" not in str(error.value)


def test_damaged_index_and_unreadable_images_are_named(root):
    config = config_of(root, *SMALLER, "--image-cache")
    folder = open_cache(config).folder
    (folder / "index.json").write_text("{")
    with pytest.raises(DatasetError, match="index.json: damaged"):
        open_cache(config)
    shutil.rmtree(folder)
    name = open_lists(config).test.names[0]
    (root / "tiny" / "images" / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{name}: not a readable JPEG or PNG image"):
        open_cache(config)
    assert [path.name for path in folder.iterdir() if path.name != ".lock"] == []
