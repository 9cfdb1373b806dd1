"""The batch order: every image once an epoch, a function of seed and step alone, and the released order by switch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from class2str_tf.data.batches import Batches, batch_indices, has_fixed_order, steps_per_epoch
from reproduction.runtime.tf import tf, tf1
from tests.gpu_kernels import without_kernel


def orders(num_images: int, batch: int, seed: int, legacy: bool, steps: int) -> list[np.ndarray]:
    with tf1.Graph().as_default():
        step = tf1.placeholder(tf.int64, [])
        indices = batch_indices(step, num_images, batch, seed, legacy)
        with tf1.Session() as session:
            return [session.run(indices, {step: s}) for s in range(steps)]


@pytest.mark.parametrize(("num_images", "batch"), [(10, 3), (50, 7), (16, 16), (5, 8)])
def test_each_epoch_is_a_new_permutation_of_all_images(num_images, batch):
    per_epoch = steps_per_epoch(num_images, batch)
    got = orders(num_images, batch, 1, False, 2 * per_epoch)
    first, second = np.concatenate(got[:per_epoch]), np.concatenate(got[per_epoch:])
    assert sorted(first) == sorted(second) == list(range(num_images))
    assert num_images < 8 or not np.array_equal(first, second)
    again = orders(num_images, batch, 2, False, per_epoch)
    assert num_images < 8 or not np.array_equal(first, np.concatenate(again))


@pytest.mark.parametrize(("batch", "cycle", "unseen"), [(256, 195, 80), (200, 249, 200)])
def test_legacy_cursor_drops_the_last_batch_and_drifts(batch, cycle, unseen):
    per_epoch = steps_per_epoch(50_000, batch)
    assert per_epoch == cycle + 1
    got = orders(50_000, batch, 0, True, per_epoch + 1)
    assert 50_000 - len(np.unique(np.concatenate(got))) == unseen
    assert np.array_equal(got[cycle], got[0]) and np.array_equal(got[0], np.arange(batch))


@pytest.mark.parametrize(("dataset", "fixed"), [("cifar10", True), ("mnist", True), ("imagenet", False)])
def test_the_released_order_of_imagenet_is_shuffled(config, dataset, fixed):
    assert has_fixed_order(replace(config, legacy_batches=True, dataset=dataset)) is fixed
    assert not has_fixed_order(replace(config, legacy_batches=False, dataset=dataset))


def test_batches_start_anywhere_and_repeat(graph):
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    batches = Batches(images, np.arange(20) % 4, 6, seed=5, legacy=False)
    with tf1.Session() as session:
        batches.start(session, 0)
        all_steps = [session.run([batches.x, batches.labels]) for _ in range(8)]
        batches.start(session, 5)
        for expected in all_steps[5:]:
            for a, b in zip(session.run([batches.x, batches.labels]), expected, strict=True):
                np.testing.assert_array_equal(a, b)
    assert all((x.reshape(-1) % 4 == y).all() for x, y in all_steps)
    assert [len(y) for _, y in all_steps] == [6, 6, 6, 2] * 2


@pytest.mark.parametrize("augment", [False, True])
def test_tables_in_the_memory_of_a_gpu_give_the_same_batches(graph, monkeypatch, augment):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    host = Batches(images, np.arange(20) % 4, 6, seed=5, legacy=False, augment=augment)
    monkeypatch.setattr("reproduction.runtime.tf_runtime.gpu_name", lambda: "a GPU")
    before = set(tf1.get_default_graph().get_operations())
    device = Batches(images, np.arange(20) % 4, 6, seed=5, legacy=False, augment=augment)
    assert len(tf1.global_variables()) == 1  # the step alone: nothing else that a checkpoint would hold
    with tf1.Session(config=tf1.ConfigProto(allow_soft_placement=True)) as session:  # without a GPU: on the CPU
        for first in (0, 5):
            host.start(session, first)
            device.start(session, first)
            for _ in range(5):
                expected, found = session.run([[host.x, host.labels], [device.x, device.labels]])
                for a, b in zip(expected, found, strict=True):
                    np.testing.assert_array_equal(a, b, strict=True)  # and of one type
    new = set(tf1.get_default_graph().get_operations()) - before
    assert "ResourceGather" in {op.type for op in new if "GPU" in op.device}
    assert not without_kernel(new)


def test_memory_mapped_features_give_the_same_batches(graph, tmp_path, monkeypatch):
    table = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", table)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr("class2str_tf.data.batches.IN_MEMORY_BYTES", 0)
    a = Batches(mapped, np.arange(30), 8, seed=0, legacy=False)
    monkeypatch.setattr("class2str_tf.data.batches.IN_MEMORY_BYTES", 1 << 30)
    b = Batches(table, np.arange(30), 8, seed=0, legacy=False)
    with tf1.Session() as session:
        a.start(session, 2)
        b.start(session, 2)
        for _ in range(5):
            (xa, ya), (xb, yb) = session.run([[a.x, a.labels], [b.x, b.labels]])
            np.testing.assert_array_equal(xa, xb)
            np.testing.assert_array_equal(ya, yb)


def test_features_grow_by_writing_so_that_a_full_disk_is_an_error(tmp_path):
    """Under a memory map, whose file has its whole size at once, a full disk kills the process without a message."""
    from class2str_tf.training import frozen_features

    images, sizes = np.arange(2**19, dtype=np.float32)[:, None], []

    def run(output, feed):
        sizes.extend(path.stat().st_size for path in tmp_path.iterdir())
        (part,) = feed.values()
        return part * 2

    session, output = SimpleNamespace(run=run), SimpleNamespace(shape=(None, 1))
    frozen_features._write(session, output, "images", images, tmp_path / "features.npy", 2**17)
    assert sizes == sorted(set(sizes)) and sizes[0] < images.nbytes / 2
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), images * 2, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npy"]
